"""Tensors to picture files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from genrep.errors import InputError
from genrep.files import check_writable, replacing

LEGIBLE = 96
"""Pixels that the longer side of an image has at least in pictures for people to look at."""


def picture(image: UInt8[Tensor, "channels height width"]) -> Any:
    """uint8 `[C, H, W]`, grey or RGB => a PIL image."""
    from PIL import Image

    array = image.cpu().numpy()
    return Image.fromarray(array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0))


def picture_grid(
    images: UInt8[Tensor, "images channels height width"], columns: int, gap: int = 2
) -> UInt8[Tensor, "channels rows columns"]:
    """Images in rows of `columns` on white, as one image; one alone comes back as it is."""
    images = images.cpu()
    if len(images) == 1:
        return images[0]
    columns = min(columns, len(images))
    blanks = images.new_full((-len(images) % columns, *images.shape[1:]), 255)
    cells = F.pad(torch.cat([images, blanks]), (gap, 0, gap, 0), value=255)
    rows = rearrange(cells, "(row column) c h w -> c (row h) (column w)", column=columns)
    return F.pad(rows, (0, gap, 0, gap), value=255)


def legible(images: UInt8[Tensor, "*images height width"]) -> UInt8[Tensor, "*images larger_height larger_width"]:
    """Images for people to look at: small ones with each pixel as a square, so that the longer side has 96 pixels or more.

    The factor is a whole number, the smallest that does it; larger images come back as they are.
    """
    factor = -(-LEGIBLE // max(images.shape[-2:]))
    return images.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


def side_by_side(groups: Sequence[Tensor], size: tuple[int, int]) -> UInt8[Tensor, "channels height width"]:
    """Rows of pictures, one row a group `[N, C, h, w]`, each shown at (height, width) (nearest neighbour), `legible`."""
    shown = [F.interpolate(group.cpu().float(), size=size, mode="nearest").to(torch.uint8) for group in groups]
    return picture_grid(legible(torch.cat(shown)), columns=len(groups[0]))


def error_map(
    image: UInt8[Tensor, "channels height width"], reference: UInt8[Tensor, "channels height width"], gain: int = 10
) -> UInt8[Tensor, "channels height width"]:
    """The absolute difference of two images, `gain` times."""
    difference = (image.short() - reference.short()).abs() * gain
    return difference.clamp(0, 255).to(torch.uint8)


def enlarged(shape: tuple[int, int], factor: int = 4, limit: int = 1024) -> tuple[int, int]:
    """The size to show an image at: `factor` times its own, as long as that stays within `limit` pixels."""
    times = max(1, min(factor, limit // max(shape)))
    return times * shape[0], times * shape[1]


def save_png(image: UInt8[Tensor, "channels height width"], path: Path | str) -> Path:
    """Write a PNG, whole or not at all. InputError if it cannot be written."""
    path = Path(path)
    with replacing(path) as partial:
        picture(image).save(partial, format="PNG")
    return path


def picture_and_report(path: Path | str) -> tuple[Path, Path]:
    """A PNG and the JSON next to it that a script is about to make; InputError, before the work, if it could not."""
    picture, report = Path(path), Path(path).with_suffix(".json")
    if picture == report:
        raise InputError(
            f"--out {path}: the report would replace the picture; give the picture's name, as in {picture.stem}.png"
        )
    return check_writable(picture), check_writable(report)
