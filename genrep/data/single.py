"""One signal, for a field: an image, a video, an array. Not a data set; those are in the files that their kinds name."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from genrep.data import ArraySourceSpec, PictureSourceSpec
from genrep.data.arrays import UNREADABLE, channels_first, is_on_a_grid
from genrep.data.images import opaque, resize_and_crop, sixteen_bits, unit_floats
from genrep.errors import InputError
from genrep.signals import ArraySignalSpec, ImageSignalSpec
from genrep.signals.base import Signal
from genrep.specs import grid_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


class SingleSignal(NamedTuple):
    """A signal as it is kept, `[C, *shape]`, and what it means."""

    kept: Tensor
    signal: Signal

    @property
    def values(self) -> Float[Tensor, "channels *shape"]:
        """What networks work with."""
        return self.signal.values(self.kept)

    def hash(self) -> str:
        """Of the content and the shape."""
        digest = hashlib.sha256(str(tuple(self.kept.shape)).encode())
        digest.update(self.kept.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def open_array(spec: ArraySourceSpec) -> SingleSignal:
    """The array that a spec names, float32. InputError if it is not there, no array, not finite, or all of one value."""
    path = Path(spec.source).expanduser()
    try:
        array = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise InputError(f"signal.source {spec.source!r}: cannot be read as a .npy file ({error})") from error
    if not is_on_a_grid(array, spec.channel_axis):
        raise InputError(
            f"signal.source {path}: must be one array of numbers; got {getattr(array, 'shape', 'a .npz file')}"
        )
    kept = torch.from_numpy(np.array(channels_first(array, spec.channel_axis), dtype=np.float32))
    if not bool(kept.isfinite().all()):
        raise InputError(f"signal.source {path}: values must be finite; got NaN or infinite ones")
    low, high = spec.value_range or (float(kept.min()), float(kept.max()))
    if not low < high:
        raise InputError(f"signal.source {path}: values must differ; all are {low:g}. Set signal.value_range")
    return SingleSignal(kept, ArraySignalSpec(type="array", low=low, high=high, unit=spec.unit, axes=spec.axes).build())


def open_pictures(spec: PictureSourceSpec) -> SingleSignal:
    """The image or video that a spec names: `[C, H, W]` of an image, `[C, T, H, W]` of frames.

    Raises:
        InputError: nothing there, no pictures, damaged ones, or frames of different sizes.
    """
    frames = _frames(spec)
    pixels = [_pixels(frame, spec, number) for number, frame in enumerate(frames)]
    if len({tuple(frame.shape) for frame in pixels}) != 1:
        raise InputError(
            f"signal.source {spec.source}: its frames differ in size or channels; give frames of one size, or set signal.size"
        )
    return SingleSignal(pixels[0] if len(pixels) == 1 else torch.stack(pixels, dim=1), ImageSignalSpec().build())


def _frames(spec: PictureSourceSpec) -> list[Any]:
    """The pictures of the signal, as PIL images."""
    from PIL import Image, ImageSequence

    Image.MAX_IMAGE_PIXELS = None  # a signal of 64 megapixels is what fields are for
    if spec.source == "camera":
        import skimage

        return [Image.open(Path(skimage.__file__).parent / "data" / "camera.png")]
    place = Path(spec.source)
    if not place.exists():
        raise InputError(
            f"signal.source {spec.source!r} does not exist: give an image, an animated file, a folder of frames, or camera"
        )
    files = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES) if place.is_dir() else [place]
    if not files:
        raise InputError(f"signal.source {place}: no pictures there ({', '.join(SUFFIXES)})")
    try:
        if len(files) > 1:
            return [_loaded(file) for file in files]
        return [frame.copy() for frame in ImageSequence.Iterator(Image.open(files[0]))]
    except OSError as error:
        raise InputError(f"signal.source {place}: cannot be read as a picture ({error})") from error


def _loaded(file: Path) -> Any:
    """A picture in memory, its file closed: a video has more frames than a process may open files."""
    from PIL import Image

    with Image.open(file) as picture:
        return picture.copy()


def _pixels(frame: Any, spec: PictureSourceSpec, number: int) -> UInt8[Tensor, "channels height width"]:
    grey = frame.mode in ("1", "L", "I", "I;16", "F") if spec.channels is None else spec.channels == 1
    try:
        if frame.mode.startswith("I"):  # 16 bits, scaled instead of clipped
            from PIL import Image

            frame = Image.fromarray(np.round(sixteen_bits(frame) / 257).astype(np.uint8))
        frame = opaque(unit_floats(frame), spec.background).convert("L" if grey else "RGB")
    except (OSError, ValueError) as error:
        raise InputError(f"signal.source {spec.source}: picture {number} cannot be read ({error})") from error
    if spec.size is not None:
        height, width = grid_of(spec.size)
        return resize_and_crop(frame, (height, width))
    array = torch.from_numpy(np.array(frame))
    return array[None] if grey else array.permute(2, 0, 1)
