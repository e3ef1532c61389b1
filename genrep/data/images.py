"""Images from any source that `datasets` reads, as uint8 pixels, mostly of one size, the same for training and metrics.

How pixels become values is in `genrep/signals/images.py`.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from genrep.data import ImageDataSpec
from genrep.data.signals import SignalData
from genrep.data.sources import labels, open_source, split_rows, undecoded
from genrep.errors import InputError
from genrep.randomness import uniform_at
from genrep.signals import ImageSignalSpec

ROWS = 256
"""Rows fetched at a time to read the sizes of images."""
FINGERPRINT_ROWS = 256
"""Images hashed for a fingerprint: enough to notice other images, few enough to read at every start."""
SMALL_FILE = 8192
"""Bytes of an encoded image below which it is decoded in one thread."""
MOST_KEPT = 2**30
"""Bytes of a split's pixels up to which they are kept for the next one who opens it in this process."""
_DECODED: dict[Any, Tensor] = {}


class ImageData(SignalData):
    """One split of a data set: uint8 images `[C, H, W]`, and their labels if there are any.

    Images are resized until they just cover the target (bicubic, antialiased), then the centre is cropped, and
    `data.margin` black pixels are added. Training may instead take random crops of the unresized image. With
    `data.native_size` images are neither resized nor cropped, except that those longer than `data.longest_side` are reduced.

    Attributes (in addition to those of `SignalData`):
        skipped: names of the images left out because they cannot be decoded.
        source_rows: `[N]` every image's row in `source_split`, the source's own split, counted from 0.
    """

    def __init__(self, spec: ImageDataSpec, split: str, image_shape: tuple[int, ...], channels: int):
        if len(image_shape) != 2 or channels not in (1, 3):
            raise InputError(
                f"data.type images needs 2 axes and 1 or 3 channels; got {len(image_shape)} axes (image_size) and {channels} "
                "channels: change them, or set data.type: arrays"
            )
        self.spec, self.split, self.channels = spec, split, channels
        self.shape: tuple[int, int] = (image_shape[0], image_shape[1])
        self.signal = ImageSignalSpec().build()
        self.flips, self.has_source = spec.flip, spec.source_size is not None
        self.has_sizes = spec.native_size
        self.name = f"{spec.source} ({split})"
        if 2 * spec.margin >= min(image_shape):
            raise InputError(
                f"data.margin must leave something of the {min(image_shape)} pixels of the image size; got {spec.margin} on every side"
            )
        self.source_shape = None
        if spec.source_size is not None:
            if spec.source_size < max(image_shape):
                raise InputError(
                    f"data.source_size must be at least {max(image_shape)}, the image size; got {spec.source_size}"
                )
            scale = spec.source_size / max(image_shape)
            self.source_shape = (round(image_shape[0] * scale), round(image_shape[1] * scale))
        # undecoded: labels and splits are read without decoding a single image
        tables = open_source(spec)
        rows, self.source_rows, self.source_split = split_rows(tables, spec, split)
        self.rows = undecoded(rows, spec)
        self.skipped: list[str] = []
        if spec.on_bad_image == "skip":
            self._leave_out_bad()
        self.labels, self.class_names = labels(self.rows, tables, spec, self.row_name)
        # random crops come from the unresized image, so those are what must be kept in memory
        whole = spec.crop == "random" and split == "train"
        self._whole = self._decode_whole() if spec.in_memory and whole else None
        self._pixels = self._decode_all() if spec.in_memory and not whole else None

    def __len__(self) -> int:
        return len(self.rows)

    def crops(
        self, indices: Sequence[int], places: Float[Tensor, "batch 2"]
    ) -> UInt8[Tensor, "batch channels height width"]:
        """Crops of the unresized images by index, at `places` in [0, 1): 0 is the first possible row or column.

        An image smaller than the crop is resized to cover it.
        """
        if self._whole is not None:
            images = [self._whole[int(index)] for index in indices]
        else:
            rows = self.rows[[int(index) for index in indices]][self.spec.image_column]
            images = [self._open(row, index) for row, index in zip(rows, indices, strict=True)]
        return torch.stack(
            [crop_at(image, self.shape, place) for image, place in zip(images, places.tolist(), strict=True)]
        )

    def read(self, indices: Sequence[int], source: bool = False) -> UInt8[Tensor, "batch channels height width"]:
        """Images by index, with `source` at `data.source_size`. InputError names an image that cannot be decoded."""
        if self._pixels is not None and not source:
            return self._pixels[torch.as_tensor(indices, dtype=torch.long)]
        # one access for all rows, which costs `datasets` less than one for each
        rows = self.rows[[int(index) for index in indices]][self.spec.image_column]
        shape = self.source_shape if source and self.source_shape else self.shape
        images = [self._decode(row, index, shape) for row, index in zip(rows, indices, strict=True)]
        sizes = {tuple(image.shape[1:]) for image in images}
        if len(sizes) > 1:
            first, second = (f"{height} × {width}" for height, width in sorted(sizes)[:2])
            raise InputError(
                f"{self.name}: images of {first} and {second} pixels do not form a batch, which this needs: leave data.native_size "
                "out, so that all are resized to one size"
            )
        return torch.stack(images)

    def original_sizes(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        """(height, width) of images by index, upright, before they are resized and cropped. Their pixels are not decoded."""
        sizes = []
        for start in range(0, len(indices), ROWS):  # all rows at once would hold every encoded image in memory
            part = indices[start : start + ROWS]
            rows = self.rows[[int(index) for index in part]][self.spec.image_column]
            for row, index in zip(rows, part, strict=True):
                try:
                    sizes.append(_upright_size(_encoded(row)))
                except Exception as error:  # PIL raises many types for damaged files
                    raise self._bad(row, index, error) from error
        return sizes

    def sizes_of(self, indices: Sequence[int]) -> Int[Tensor, "batch 2"]:
        if not self.has_sizes:
            return super().sizes_of(indices)
        originals = self.original_sizes(indices)
        return torch.tensor([limited(size, self.spec.longest_side) for size in originals]).view(-1, 2)

    def at_source_size(self, indices: Sequence[int]) -> tuple[list[int], Tensor | None]:
        if self.source_shape is None:
            return [], None
        height, width = self.source_shape
        # smaller originals would be enlarged, and an interpolation is no ground truth for super-resolution
        rows = [row for row, (h, w) in enumerate(self.original_sizes(indices)) if h >= height and w >= width]
        return rows, self.read([indices[row] for row in rows], source=True) if rows else None

    def read_training(
        self, indices: Sequence[int], positions: Sequence[int], seed: int
    ) -> UInt8[Tensor, "batch channels height width"]:
        if self.spec.crop == "random":
            return self.crops(indices, uniform_at(positions, (2,), seed, "crop"))
        return self.read(indices)

    def mirrored(self, kept: UInt8[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
        return kept.flip(-1)

    def row_name(self, index: int) -> str:
        """An image's row in the stored source, for messages, regardless of slices and of the held-out draw."""
        return f"row {self.source_rows[index]} of split {self.source_split}"

    def transform(self) -> dict[str, Any]:
        """How the pixels were processed, for manifests and reports."""
        transform: dict[str, Any] = {
            "image_shape": list(self.shape),
            "channels": self.channels,
            "resize": "short side, PIL bicubic",
            "crop": "centre",
        }
        if self.has_sizes:
            transform = {
                "channels": self.channels,
                "resize": "longest side, PIL bicubic" if self.spec.longest_side else "none",
                "longest_side": self.spec.longest_side,
            }
        # left out at its default, so that fingerprints and caches made before the key existed still match
        if self.spec.margin:
            transform["margin"] = self.spec.margin
        if self.spec.background != ImageDataSpec.model_fields["background"].default:
            transform["background"] = self.spec.background
        return transform

    def fingerprint(self) -> str:
        """Hash of the row count, the labels, and the encoded bytes of evenly spaced rows, wherever the files are."""
        # Encoded bytes, not pixels: they need no decoding, and do not change with the version of the decoder.
        digest = hashlib.sha256(json.dumps([len(self.rows), self.transform()]).encode())
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        for index in np.unique(np.linspace(0, len(self.rows) - 1, FINGERPRINT_ROWS).astype(int)):
            index = int(index)
            row = self.rows[index][self.spec.image_column]
            try:
                encoded = _encoded(row)
            except (OSError, TypeError) as error:
                raise self._bad(row, index, error) from error
            digest.update(encoded)
            if _is_transparent(encoded):  # earlier versions ignored alpha, so their pixels differed
                digest.update(b"blended")
        return digest.hexdigest()[:16]

    def _decode(self, row: Any, index: int, shape: tuple[int, int]) -> UInt8[Tensor, "channels height width"]:
        image = self._open(row, index)
        if not self.has_sizes:
            margin = self.spec.margin
            inner = (shape[0] - 2 * margin, shape[1] - 2 * margin)
            return F.pad(resize_and_crop(image, inner), (margin, margin, margin, margin))
        return resize_and_crop(image, limited((image.height, image.width), self.spec.longest_side))

    def _open(self, row: Any, index: int) -> Any:
        try:
            return decode(row, self.channels, self.spec.background)
        except Exception as error:  # PIL raises many types for damaged files
            raise self._bad(row, index, error) from error

    def _bad(self, row: Any, index: int, error: Exception) -> InputError:
        return InputError(
            f"{_with_path(row, self.row_name(index))} of {self.spec.source} cannot be decoded as an image ({error}): "
            "fix or remove it, or set data.on_bad_image: skip"
        )

    def _leave_out_bad(self) -> None:
        """Keep the rows that can be decoded, and print the names of the others."""
        column, count = self.spec.image_column, len(self.rows)
        # `map` caches its result on disk by the hash of the rows and of `check`: later runs do not decode everything again
        check: Callable[[Any], dict[str, str | None]] = _Check(column, self.spec.background)
        faults = self.rows.map(check, remove_columns=self.rows.column_names, desc=f"checking {self.name}")["fault"][:]
        bad = [index for index, fault in enumerate(faults) if fault]
        if not bad:
            return
        for index in bad:
            row = self.rows[index][column]
            self.skipped.append(f"{_with_path(row, self.row_name(index))}: {faults[index]}")
        names = "\n  ".join(self.skipped[:20]) + (f"\n  ... and {len(bad) - 20} more" if len(bad) > 20 else "")
        tqdm.write(f"{self.name}: {len(bad)} of {count} images cannot be decoded and are left out:\n  {names}")
        if len(bad) == count:
            raise InputError(f"{self.name}: none of the {count:,} images can be decoded; give other images")
        good = [index for index, fault in enumerate(faults) if not fault]
        self.rows, self.source_rows = self.rows.select(good), self.source_rows[good]

    def _decode_all(self) -> UInt8[Tensor, "images channels height width"]:
        """Pixels of the whole split. A process that opens it again, as the stages of a recipe do, gets the same tensor."""
        # datasets' fingerprint is of the source's files, with their times, and of the rows chosen
        spec = self.spec
        key = (self.rows._fingerprint, spec.image_column, self.shape, spec.margin, self.channels, spec.background)
        if key in _DECODED:
            return _DECODED[key]
        pixels = torch.empty(len(self), self.channels, *self.shape, dtype=torch.uint8)
        step = 512  # rows fetched at a time: all at once would hold every encoded image in memory as well
        # PIL's decoders work without Python's lock, so that threads share the cores; of small files the rest is most of the work
        encoded = len(_encoded(self.rows[0][self.spec.image_column])) if len(self) else 0
        threads = (os.cpu_count() or 1) if encoded > SMALL_FILE else 1
        with ThreadPoolExecutor(threads) as pool:
            for start in tqdm(
                range(0, len(self), step), desc=f"decoding {self.name}", unit_scale=step, disable=len(self) < 5000
            ):
                rows = self.rows[start : start + step][self.spec.image_column]
                indices = range(start, start + len(rows))
                shapes = [self.shape] * len(rows)
                decoded = (map if threads == 1 else pool.map)(self._decode, rows, indices, shapes)
                for index, image in zip(indices, decoded, strict=True):
                    pixels[index] = image
        if pixels.numel() <= MOST_KEPT:
            while len(_DECODED) > 1:  # a training and a held-out split
                del _DECODED[next(iter(_DECODED))]
            _DECODED[key] = pixels
        return pixels

    def _decode_whole(self) -> list[Any]:
        return [self._open(row, index) for index, row in enumerate(self.rows[:][self.spec.image_column])]


def decode(row: Any, channels: int, background: int = 255) -> Any:
    """An undecoded row of `datasets` ({"bytes", "path"}) => a PIL image, grey or RGB, with 8 bits per channel.

    Transparent images are blended with `background`, a grey level.

    Raises:
        ValueError: not an image, or values in a range that does not tell their scale.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        opened = Image.open(io.BytesIO(_encoded(row)))
    except UnidentifiedImageError:
        raise ValueError("not in a known image format") from None
    with opened as image:
        upright = ImageOps.exif_transpose(image)  # cameras store rotation as a tag
        if upright.mode.startswith("I"):  # PIL's own conversion would clip 16-bit values at 255
            upright = Image.fromarray((sixteen_bits(upright) >> 8).clip(0, 255).astype(np.uint8))
        return opaque(unit_floats(upright), background).convert("L" if channels == 1 else "RGB")


def sixteen_bits(image: Any) -> np.ndarray:
    """A PIL image of integers (modes I;16 and I) => int64 values. ValueError if they do not fit into 16 bits."""
    values = np.array(image, dtype=np.int64)
    # 32-bit integers have no agreed white level, and as 16-bit values they would come out black or wrap around
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"integer pixels must lie in 0 to 65535; they range from {values.min()} to {values.max()}: save them with 8 or 16 bits"
        )
    return values


def unit_floats(image: Any) -> Any:
    """A PIL image of floats (mode F) in [0, 1] => 8 bits, ValueError outside; other images are returned unchanged."""
    from PIL import Image

    if image.mode != "F":
        return image
    values = np.array(image, dtype=np.float64)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # written this way round so that NaN is refused
        raise ValueError(
            f"float pixels must lie in [0, 1]; they range from {low:g} to {high:g}: rescale them, or save 8 or 16 bits"
        )
    return Image.fromarray(np.round(values * 255).astype(np.uint8))


def opaque(image: Any, background: int) -> Any:
    """A PIL image with its transparent pixels blended with a grey level; an opaque image is returned unchanged."""
    from PIL import Image

    alpha = _alpha(image)
    if alpha is None:
        return image
    # convert("RGB") alone would drop alpha and uncover whatever colour transparent pixels happen to store
    ground = Image.new("RGBA", image.size, (background, background, background, 255))
    return Image.alpha_composite(ground, alpha).convert("RGB")


def _alpha(image: Any) -> Any:
    """The image as RGBA if any of its pixels is transparent, else None."""
    # PIL keeps alpha in a channel, or marks one palette entry or colour as transparent
    has_transparent_colour = image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and not has_transparent_colour:
        return None
    with_alpha = image.convert("RGBA")
    return None if with_alpha.getextrema()[3][0] == 255 else with_alpha


def _is_transparent(encoded: bytes) -> bool:
    """Whether any pixel of an encoded image is transparent; False if PIL cannot read it."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return _alpha(image) is not None
    except Exception:  # PIL raises many types; decoding the pixels reports the error
        return False


def resize_and_crop(image: Any, shape: tuple[int, int]) -> UInt8[Tensor, "channels height width"]:
    """Resize (bicubic, antialiased) until the image just covers `shape`, then crop the centre."""
    from PIL import Image

    height, width = shape
    scale = max(height / image.height, width / image.width)
    cropped_height, cropped_width = height / scale, width / scale
    top, left = (image.height - cropped_height) / 2, (image.width - cropped_width) / 2
    # One resize from a fractional box does both: cropping whole pixels afterwards would be off centre by up to half a one.
    if (image.height, image.width) != shape:
        box = (left, top, left + cropped_width, top + cropped_height)
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return _tensor(image)


def limited(size: tuple[int, int], longest_side: int | None) -> tuple[int, int]:
    """(height, width) of an image once its longer side is reduced to `longest_side`; None and smaller images keep their size."""
    scale = 1.0 if longest_side is None else min(1.0, longest_side / max(size))
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def crop_at(image: Any, shape: tuple[int, int], place: Sequence[float]) -> UInt8[Tensor, "channels height width"]:
    """The crop of `shape` at `place` in [0, 1)²; (0, 0) is the upper left. A smaller image is first resized to cover it."""
    from PIL import Image

    height, width = shape
    scale = max(1.0, height / image.height, width / image.width)
    if scale > 1:
        image = image.resize(
            (max(width, round(scale * image.width)), max(height, round(scale * image.height))), Image.Resampling.BICUBIC
        )
    top = int(place[0] * (image.height - height + 1))
    left = int(place[1] * (image.width - width + 1))
    return _tensor(image.crop((left, top, left + width, top + height)))


def _tensor(image: Any) -> UInt8[Tensor, "channels height width"]:
    array = np.array(image)
    # channels first, as encoders and torch-fidelity take images
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def _upright_size(encoded: bytes) -> tuple[int, int]:
    """(height, width) of an encoded image as it is shown."""
    from PIL import ExifTags, Image

    with Image.open(io.BytesIO(encoded)) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)  # a tag of cameras: by a quarter
        return (width, height) if turned else (height, width)


def _encoded(row: Any) -> bytes:
    # `datasets` stores an image's bytes in the table (parquet), or only the path of its file (image folders)
    return row["bytes"] if row["bytes"] is not None else Path(row["path"]).read_bytes()


def _with_path(row: Any, name: str) -> str:
    return f"{row['path']} ({name})" if isinstance(row, dict) and row.get("path") else name


class _Check:
    """A row => what keeps it from being decoded. A class, because `datasets` must be able to hash and pickle it."""

    def __init__(self, column: str, background: int):
        self.column, self.background = column, background

    def __call__(self, row: Any) -> dict[str, str | None]:
        try:
            decode(row[self.column], channels=3, background=self.background)
        except Exception as error:  # whatever PIL raises, the image is bad
            return {"fault": str(error) or type(error).__name__}
        return {"fault": None}
