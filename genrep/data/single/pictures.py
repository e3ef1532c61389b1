"""A single image or video to fit a field to: a file, a folder of frames, or a built-in picture."""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from genrep.data.images import opaque, resize_and_crop, sixteen_bits, unit_floats
from genrep.data.single import PictureSourceSpec
from genrep.data.single.grids import GridSignal
from genrep.data.single.siemens import siemens_star
from genrep.data.single.videos import VIDEO_SUFFIXES, video_frames
from genrep.devices import check_memory
from genrep.errors import InputError
from genrep.signals import ImageSignalSpec
from genrep.specs import grid_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
BYTES_PER_VALUE = 5
"""Memory for a value: its byte, and the float that networks are compared with."""
SIEMENS_SIZE = 256
"""Default side of the star in pixels, as in SCONE."""


def open_pictures(spec: PictureSourceSpec) -> GridSignal:
    """The image or video that a spec names: `[C, H, W]` for an image, `[C, T, H, W]` for frames.

    Raises:
        InputError: the source is missing, holds no pictures, too few or damaged ones, or its frames differ in size.
    """
    if spec.size is not None:
        count = (spec.channels or 1) * math.prod(grid_of(spec.size)) * (spec.num_frames or 1)
        check_memory(BYTES_PER_VALUE * count, torch.device("cpu"), "a picture of signal.size", "lower signal.size")
    pixels = [_pixels(frame, spec, number) for number, frame in enumerate(_chosen_frames(spec))]
    if not pixels or len(pixels) < (spec.num_frames or 0):
        raise InputError(
            f"signal.source {spec.source}: must have {spec.num_frames or 1} or more frames from frame {spec.start} on, at a "
            f"stride of {spec.stride}; got {len(pixels)}. Change signal.num_frames, signal.start or signal.stride"
        )
    if len({tuple(frame.shape) for frame in pixels}) != 1:
        raise InputError(
            f"signal.source {spec.source}: its frames must have the same size and channels; set signal.size or signal.channels"
        )
    kept = pixels[0] if len(pixels) == 1 else torch.stack(pixels, dim=1)
    return GridSignal(kept, ImageSignalSpec().build(), spec.source)


def _chosen_frames(spec: PictureSourceSpec) -> Iterator[Any]:
    """The frames that the spec selects, one at a time, as PIL images."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # large pictures are what fields are for: LoE fits one of 64 megapixels
    stop = None if spec.num_frames is None else spec.start + spec.num_frames * spec.stride
    if spec.source in BUILT_IN:
        return itertools.islice([BUILT_IN[spec.source](spec)], spec.start, stop, spec.stride)
    place = Path(spec.source).expanduser()
    if not place.exists():
        raise InputError(
            f"signal.source {spec.source!r} does not exist: give an image, a video, an animated file, a folder of frames, "
            f"{' or '.join(BUILT_IN)}"
        )
    if place.suffix.lower() in VIDEO_SUFFIXES and place.is_file():
        return video_frames(place, spec.start, stop, spec.stride)
    return itertools.islice(_pictures(place), spec.start, stop, spec.stride)


def _pictures(place: Path) -> Iterator[Any]:
    """The pictures in a folder, or in a file that may be animated."""
    from PIL import Image, ImageOps, ImageSequence

    files = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES) if place.is_dir() else [place]
    if not files:
        raise InputError(f"signal.source {place}: must contain pictures ({', '.join(SUFFIXES)}); the folder has none")
    try:
        if len(files) > 1:
            yield from map(_loaded, files)
        else:
            yield from (ImageOps.exif_transpose(frame) for frame in ImageSequence.Iterator(Image.open(files[0])))
    except Exception as error:  # Pillow's readers raise errors of many types on damaged files
        kinds = {".npy": "array", ".wav": "array", ".obj": "shape", ".ply": "shape", ".stl": "shape", ".off": "shape"}
        kind = kinds.get(place.suffix.lower())
        advice = f"; for {place.suffix} files set signal.type to {kind}" if kind else ""
        raise InputError(
            f"signal.source {place}: cannot be read as a picture ({str(error) or type(error).__name__}){advice}"
        ) from error


def _camera(spec: PictureSourceSpec) -> Any:
    import skimage
    from PIL import Image

    return Image.open(Path(skimage.__file__).parent / "data" / "camera.png")


def _siemens(spec: PictureSourceSpec) -> Any:
    from PIL import Image

    height, width = grid_of(SIEMENS_SIZE if spec.size is None else spec.size)
    return Image.fromarray(siemens_star(height, width, spec.num_spokes))


BUILT_IN: dict[str, Callable[[PictureSourceSpec], Any]] = {"camera": _camera, "siemens": _siemens}
"""Pictures that need no file, by their name in `signal.source`."""


def _loaded(file: Path) -> Any:
    """A picture in memory with its file closed, since a folder may hold more frames than a process may open files."""
    from PIL import Image, ImageOps

    with Image.open(file) as picture:
        return ImageOps.exif_transpose(picture)  # cameras store rotation as a tag


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
