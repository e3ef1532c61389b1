"""Images from any source that `datasets` reads, as uint8 pixels of one size: the same pixels for training and metrics."""

import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from genrep.data import DataSpec
from genrep.errors import InputError, did_you_mean

FINGERPRINT_ROWS = 256


class ImageData(torch.utils.data.Dataset):
    """One split of a data set: uint8 images `[C, H, W]` of one size, and labels if it has any.

    Resizing takes the short side to the target (bicubic, antialiased), then crops the centre.

    Attributes:
        labels: `[N]` int64, or None.
        class_names: names of the classes, empty without labels.
        skipped: names of the images left out because they cannot be decoded.
        name: source and split, for messages and reports.
    """

    def __init__(self, spec: DataSpec, split: str, image_shape: tuple[int, int], channels: int):
        self.spec, self.split, self.image_shape, self.channels = spec, split, image_shape, channels
        self.name = f"{spec.source} ({split})"
        self.source_shape = None
        if spec.source_size is not None:
            if spec.source_size < max(image_shape):
                raise InputError(
                    f"data.source_size {spec.source_size} is smaller than the image size {image_shape}: leave it out"
                )
            scale = spec.source_size / max(image_shape)
            self.source_shape = (round(image_shape[0] * scale), round(image_shape[1] * scale))
        tables = _open_source(spec)
        self.rows = _undecoded(_split_rows(tables, spec, split), spec)
        self.skipped: list[str] = []
        if spec.on_bad_image == "skip":
            self.rows, self.skipped = _without_bad(self.rows, spec.image_column, self.name)
        if len(self.rows) == 0:
            raise InputError(f"{self.name}: no images; check data.source and the split")
        self.labels, self.class_names = _labels(self.rows, tables, spec)
        self._pixels = self._decode_all() if spec.in_memory else None

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, indices: Sequence[int], source: bool = False) -> UInt8[Tensor, "batch channels height width"]:
        """Images by index; with `source`, at `data.source_size`. InputError names an image that cannot be decoded."""
        if self._pixels is not None and not source:
            return self._pixels[torch.as_tensor(indices, dtype=torch.long)]
        rows = self.rows[[int(index) for index in indices]][self.spec.image_column]
        shape = self.source_shape if source and self.source_shape else self.image_shape
        return torch.stack([self._decode(row, index, shape) for row, index in zip(rows, indices, strict=True)])

    def labels_of(self, indices: Sequence[int]) -> Int[Tensor, " batch"] | None:
        """Labels by index, None without labels."""
        return None if self.labels is None else self.labels[torch.as_tensor(indices, dtype=torch.long)]

    def __getitem__(self, index: int) -> UInt8[Tensor, "channels height width"]:
        return self.pixels([index])[0]

    def transform(self) -> dict[str, Any]:
        """What was done to the pixels, for manifests and reports."""
        return {
            "image_shape": list(self.image_shape),
            "channels": self.channels,
            "resize": "short side, PIL bicubic",
            "crop": "centre",
        }

    def fingerprint(self) -> str:
        """Hash of the content: row count, labels, and the encoded bytes of evenly spaced rows. Paths play no part."""
        digest = hashlib.sha256(json.dumps([len(self.rows), self.transform()]).encode())
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        for index in np.unique(np.linspace(0, len(self.rows) - 1, FINGERPRINT_ROWS).astype(int)):
            index = int(index)
            row = self.rows[index][self.spec.image_column]
            try:
                digest.update(_encoded(row))
            except (OSError, TypeError) as error:
                raise self._bad(row, index, error) from error
        return digest.hexdigest()[:16]

    def _decode(self, row: Any, index: int, shape: tuple[int, int]) -> UInt8[Tensor, "channels height width"]:
        try:
            image = decode(row, self.channels)
        except Exception as error:
            raise self._bad(row, index, error) from error
        return resize_and_crop(image, shape)

    def _bad(self, row: Any, index: int, error: Exception) -> InputError:
        return InputError(
            f"{_row_name(row, index)} of {self.name} cannot be decoded as an image ({error}): "
            "mend or remove it, or set data.on_bad_image: skip"
        )

    def _decode_all(self) -> UInt8[Tensor, "images channels height width"]:
        pixels = torch.empty(len(self), self.channels, *self.image_shape, dtype=torch.uint8)
        step = 512
        for start in tqdm(
            range(0, len(self), step), desc=f"decoding {self.name}", unit_scale=step, disable=len(self) < 5000
        ):
            rows = self.rows[start : start + step][self.spec.image_column]
            for offset, row in enumerate(rows):
                pixels[start + offset] = self._decode(row, start + offset, self.image_shape)
        return pixels


def open_images(spec: DataSpec, image_shape: tuple[int, int], channels: int) -> tuple[ImageData, ImageData]:
    """The training split and the held-out split."""
    return ImageData(spec, "train", image_shape, channels), ImageData(spec, "held_out", image_shape, channels)


def evenly(count: int, wanted: int | None) -> list[int]:
    """Up to `wanted` indices below `count`, evenly spaced, so that a sorted data set gives of all its classes; None is all."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [index * count // wanted for index in range(wanted)]


def decode(row: Any, channels: int) -> Any:
    """An undecoded row of `datasets` ({"bytes", "path"}) => a PIL image, grey or RGB."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        opened = Image.open(io.BytesIO(_encoded(row)))
    except UnidentifiedImageError:
        raise ValueError("no known image format") from None
    with opened as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16-bit grey: PIL would clip it at 255
            upright = Image.fromarray((np.array(upright, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8))
        return upright.convert("L" if channels == 1 else "RGB")


def resize_and_crop(image: Any, shape: tuple[int, int]) -> UInt8[Tensor, "channels height width"]:
    """Resize (bicubic, antialiased) until the image just covers `shape`, then crop the centre."""
    from PIL import Image

    height, width = shape
    scale = max(height / image.height, width / image.width)
    cropped_height, cropped_width = height / scale, width / scale
    top, left = (image.height - cropped_height) / 2, (image.width - cropped_width) / 2
    if (image.height, image.width) != shape:
        box = (left, top, left + cropped_width, top + cropped_height)
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def _encoded(row: Any) -> bytes:
    return row["bytes"] if row["bytes"] is not None else Path(row["path"]).read_bytes()


def _row_name(row: Any, index: int) -> str:
    return f"{row['path']} (row {index})" if isinstance(row, dict) and row.get("path") else f"row {index}"


def _open_source(spec: DataSpec) -> Any:
    """The source as a `datasets.DatasetDict`."""
    import datasets

    source = spec.source
    if source == "digits":
        return datasets.DatasetDict(train=_digits())
    place = Path(source).expanduser()
    if any(mark in source for mark in "*?["):
        import glob

        files = sorted(glob.glob(str(place)))
        if not files:
            raise InputError(f"data.source {source!r} matches no file")
        return _load(_builder_of(files[0], source), data_files=files)
    if place.is_file():
        return _load(_builder_of(str(place), source), data_files=str(place))
    if place.is_dir():
        if (place / "dataset_dict.json").exists() or (place / "state.json").exists():
            try:
                saved = datasets.load_from_disk(str(place))
            except Exception as error:  # pyarrow's and fsspec's are many
                raise InputError(
                    f"data.source {source}: cannot be read, a file is damaged or missing ({error})"
                ) from error
            return saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict(train=saved)
        for suffix in ("parquet", "arrow"):
            if any(place.glob(f"**/*.{suffix}")):
                return _load(suffix, data_dir=str(place))
        return _load("imagefolder", data_dir=str(place))
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
        near = did_you_mean(source, ["digits"])
        raise InputError(
            f"data.source {source!r} does not exist: give digits, a folder, a parquet or Arrow file, or a Hub id owner/name{near}"
        )
    return _load(source)


def _builder_of(file: str, source: str) -> str:
    suffix = Path(file).suffix.lstrip(".")
    if suffix not in ("parquet", "arrow"):
        raise InputError(
            f"data.source {source!r}: files of type .{suffix} are not read: give parquet or Arrow files, or a folder of images"
        )
    return suffix


def _load(builder: str, **where: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset(builder, **where)
    except ConnectionError as error:
        raise InputError(
            f"data.source {builder!r} is neither a folder here nor a data set that the Hub let us reach ({error}): "
            "check the name, or download it first and give its folder"
        ) from error
    except (
        datasets.exceptions.DatasetNotFoundError,
        datasets.exceptions.DatasetGenerationError,
        FileNotFoundError,
        ValueError,
    ) as error:
        place = where.get("data_dir") or where.get("data_files") or builder
        cause = error.__cause__ or error
        raise InputError(
            f"data.source {place}: cannot be read as {builder} ({cause}); give a folder of images, or whole parquet or Arrow files"
        ) from error


def _digits() -> Any:
    """scikit-learn's 1,797 handwritten digits, 8×8, values 0..16 stretched to 0..255."""
    import datasets
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(n) for n in range(10)])}
    )
    columns = {"image": [_png(Image.fromarray(image)) for image in pixels], "label": digits.target.tolist()}
    return datasets.Dataset.from_dict(columns, features=features)


def _png(image: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _split_rows(tables: Any, spec: DataSpec, split: str) -> Any:
    if split not in ("train", "held_out"):
        raise InputError(f"split {split!r} is not one of train, held_out")
    if split == "held_out" and spec.held_out_split is not None:
        return _select(tables, spec.held_out_split, spec)
    rows = _select(tables, spec.train_split, spec)
    if spec.held_out_split is not None:
        return rows
    held_out = round(len(rows) * spec.held_out_fraction)
    if held_out == 0 and split == "held_out":
        raise InputError(
            f"data.held_out_fraction {spec.held_out_fraction} of {len(rows)} images holds none out: raise it, or name data.held_out_split"
        )
    order = np.random.default_rng(spec.split_seed).permutation(len(rows))
    return rows.select(np.sort(order[:held_out] if split == "held_out" else order[held_out:]))


def _select(tables: Any, name: str, spec: DataSpec) -> Any:
    """A split, or a slice of one, by `datasets`' own rules: train, test[:10%], train[-5000:]."""
    import datasets

    lengths = {key: len(rows) for key, rows in tables.items()}
    known = ", ".join(f"{key} ({count:,})" for key, count in lengths.items())
    base = name.split("[")[0].strip()
    if base not in lengths:
        raise InputError(
            f"data.source {spec.source!r} has no split {base!r}; it has {known}{did_you_mean(base, lengths)}"
        )
    try:
        (part,) = datasets.ReadInstruction.from_spec(name).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        raise InputError(
            f"split {name!r} cannot be ({error}); write it like train, train[:-5000] or test[:10%]; there is {known}"
        ) from error
    return tables[part.splitname].select(range(part.from_ or 0, lengths[base] if part.to is None else part.to))


def _undecoded(rows: Any, spec: DataSpec) -> Any:
    import datasets

    if spec.image_column not in rows.column_names:
        names = rows.column_names
        raise InputError(
            f"data.image_column {spec.image_column!r} is not in {spec.source!r}, which has {', '.join(names)}{did_you_mean(spec.image_column, names)}"
        )
    try:
        return rows.cast_column(spec.image_column, datasets.Image(decode=False))
    except Exception as error:  # pyarrow's are many
        feature = rows.features[spec.image_column]
        raise InputError(
            f"data.image_column {spec.image_column!r} of {spec.source!r} holds no images but {feature}; "
            f"it has {', '.join(rows.column_names)}"
        ) from error


def _labels(rows: Any, tables: Any, spec: DataSpec) -> tuple[Tensor | None, list[str]]:
    import datasets

    if spec.label_column is None or spec.label_column not in rows.column_names:
        if spec.label_column not in (None, "label"):  # asked for by name, not by default
            raise InputError(
                f"data.label_column {spec.label_column!r} is not in {spec.source!r}, which has {', '.join(rows.column_names)}"
            )
        return None, []
    values = np.asarray(rows.with_format("numpy")[spec.label_column][:])
    if values.dtype.kind not in "iu" or values.min() < 0:
        raise InputError(
            f"data.label_column {spec.label_column!r} must hold whole numbers from 0 (a ClassLabel), got {values[:3].tolist()}"
        )
    feature = rows.features[spec.label_column]
    if isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)
    else:  # every split counts: one that lacks the last class must not have fewer
        labelled = [table for table in tables.values() if spec.label_column in table.column_names]
        names = [str(n) for n in range(1 + max(max(table[spec.label_column]) for table in labelled))]
    return torch.from_numpy(values.astype(np.int64)), names


def _without_bad(rows: Any, column: str, name: str) -> tuple[Any, list[str]]:
    """Rows that decode, and the names of those that do not. `datasets` keeps the answer for the next time."""
    check: Callable[[Any, int], dict[str, str | None]] = _Check(column)
    faults = rows.map(check, with_indices=True, remove_columns=rows.column_names, desc=f"checking {name}")["fault"][:]
    bad = [fault for fault in faults if fault]
    if bad:
        shown = "\n  ".join(bad[:20]) + (f"\n  ... and {len(bad) - 20} more" if len(bad) > 20 else "")
        tqdm.write(f"{name}: {len(bad)} of {len(rows)} images cannot be decoded and are left out:\n  {shown}")
    return rows.select([index for index, fault in enumerate(faults) if not fault]), bad


class _Check:
    def __init__(self, column: str):
        self.column = column

    def __call__(self, row: Any, index: int) -> dict[str, str | None]:
        try:
            decode(row[self.column], channels=3)
        except Exception as error:  # whatever PIL raises, the image is bad and gets named
            return {"fault": f"{_row_name(row[self.column], index)}: {error}"}
        return {"fault": None}
