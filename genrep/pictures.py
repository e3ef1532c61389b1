"""From tensors to picture files."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from genrep.errors import InputError
from genrep.files import check_writable, replacing

LEGIBLE = 96
"""Minimum length, in pixels, of the longer side of an image in pictures for people to look at."""


def to_uint8(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """[-1, 1] => 0..255: round(255 (x + 1) / 2), clamped. The only place where the project rounds to pixels."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(pixels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """0..255 => [-1, 1]; `to_uint8` inverts it exactly."""
    return pixels.float().mul_(2 / 255).sub_(1)


LINES = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75))
"""Colours for the channels of a curve."""


def picture(image: UInt8[Tensor, "channels height width"]) -> Any:
    """uint8 `[C, H, W]`, grey or RGB => a PIL image."""
    from PIL import Image

    array = image.cpu().numpy()
    return Image.fromarray(array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0))


def picture_grid(
    images: UInt8[Tensor, "images channels height width"], columns: int, gap: int = 2
) -> UInt8[Tensor, "channels rows columns"]:
    """Images in rows of `columns` on white, as one image; a single image is returned unchanged."""
    images = images.cpu()
    if len(images) == 1:
        return images[0]
    columns = min(columns, len(images))
    blanks = images.new_full((-len(images) % columns, *images.shape[1:]), 255)
    cells = F.pad(torch.cat([images, blanks]), (gap, 0, gap, 0), value=255)
    rows = rearrange(cells, "(row column) c h w -> c (row h) (column w)", column=columns)
    return F.pad(rows, (0, gap, 0, gap), value=255)


def legible(images: UInt8[Tensor, "*images height width"]) -> UInt8[Tensor, "*images larger_height larger_width"]:
    """Images enlarged for people to look at: each pixel becomes a square, so that the longer side has at least 96 pixels.

    The factor is the smallest integer that achieves this; larger images are returned unchanged.
    """
    factor = -(-LEGIBLE // max(images.shape[-2:]))
    return images.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


def side_by_side(groups: Sequence[UInt8[Tensor, "images _ _ _"]]) -> UInt8[Tensor, "channels height width"]:
    """Rows of pictures, one row per group, all enlarged to the largest group's size (nearest neighbour), `legible`."""
    size = [max(group.shape[axis] for group in groups) for axis in (-2, -1)]
    same = [F.interpolate(group.cpu().float(), size=size, mode="nearest").to(torch.uint8) for group in groups]
    return picture_grid(legible(torch.cat(same)), columns=len(groups[0]))


def line_plot(
    curves: Float[Tensor, "batch channels samples"], height: int = 96, width: int = 192
) -> UInt8[Tensor, "batch 3 height width"]:
    """Curves over [-1, 1], one line per channel, on white; missing values leave gaps, values beyond ±1 stop at the border."""
    samples = curves.shape[-1]
    at = torch.linspace(0, samples - 1, width, device=curves.device)
    left = at.floor().long().clamp_max(max(0, samples - 2))
    right = (left + 1).clamp_max(samples - 1)
    values = torch.lerp(curves[..., left].float(), curves[..., right].float(), (at - left).to(torch.float32))
    rows = (1 - values.clamp(-1.05, 1.05) / 1.05) * (height - 1) / 2  # [batch, channels, width]
    # Every column inks from half-way to its left neighbour to half-way to its right one, so steep lines have no gaps.
    before = torch.cat([rows[..., :1], (rows[..., 1:] + rows[..., :-1]) / 2], dim=-1)
    after = torch.cat([before[..., 1:], rows[..., -1:]], dim=-1)
    top = torch.minimum(torch.minimum(before, after), rows) - 0.75
    bottom = torch.maximum(torch.maximum(before, after), rows) + 0.75
    y = torch.arange(height, device=curves.device).view(1, 1, -1, 1)
    inked = (y >= top[:, :, None]) & (y <= bottom[:, :, None])  # [batch, channels, height, width]; NaN is neither
    images = torch.full((len(curves), 3, height, width), 255, dtype=torch.uint8, device=curves.device)
    for channel in range(curves.shape[1]):
        colour = torch.tensor(LINES[channel % len(LINES)], dtype=torch.uint8, device=curves.device).view(1, 3, 1, 1)
        images = torch.where(inked[:, channel, None], colour, images)
    return images


def colour_map(values: Float[Tensor, "*maps height width"]) -> UInt8[Tensor, "*maps 3 height width"]:
    """Values in [-1, 1] from dark to bright (viridis); missing values are white."""
    from matplotlib import colormaps

    table = torch.from_numpy(colormaps["viridis"](range(256))[:, :3] * 255).round().to(torch.uint8).to(values.device)
    index = values.float().nan_to_num().add(1).mul(127.5).round().clamp(0, 255).long()
    colours = torch.where(values.isnan()[..., None], 255, table[index]).to(torch.uint8)
    return colours.movedim(-1, -3)


def strip(maps: UInt8[Tensor, "batch maps 3 height width"]) -> UInt8[Tensor, "batch 3 height wide"]:
    """The maps of a signal in a row, with white lines between them."""
    return rearrange(F.pad(maps, (0, 1), value=255), "b m c h w -> b c h (m w)")[..., :-1]


def error_map(
    image: UInt8[Tensor, "channels height width"], reference: UInt8[Tensor, "channels height width"], gain: int = 10
) -> UInt8[Tensor, "channels height width"]:
    """The absolute difference of two images, multiplied by `gain`."""
    difference = (image.short() - reference.short()).abs() * gain
    return difference.clamp(0, 255).to(torch.uint8)


def enlarged(shape: Sequence[int], factor: int = 4, limit: int = 1024) -> tuple[int, ...]:
    """The size to show a signal at: `factor` times its own, but at most `limit` points per axis and `limit`² in total."""
    per_axis = limit // max(shape)
    in_total = int((limit**2 / math.prod(shape)) ** (1 / len(shape)) + 1e-9)  # the root of 64 may be 3.9999999999999996
    scale = max(1, min(factor, per_axis, in_total))
    return tuple(scale * length for length in shape)


def save_png(image: UInt8[Tensor, "channels height width"], path: Path | str) -> Path:
    """Write a PNG atomically. InputError if that fails."""
    path = Path(path)
    with replacing(path) as partial:
        picture(image).save(partial, format="PNG")
    return path


def picture_and_report(path: Path | str) -> tuple[Path, Path]:
    """The paths of a PNG and of the JSON next to it; InputError if they cannot be written, before the work is done."""
    picture, report = Path(path), Path(path).with_suffix(".json")
    if picture == report:
        raise InputError(
            f"--out {path}: this is where the report goes; give the picture's name, as in {picture.stem}.png"
        )
    return check_writable(picture), check_writable(report)


def labelled(image: UInt8[Tensor, "channels height width"], text: str) -> UInt8[Tensor, "channels taller width"]:
    """The image with a line of text above it, black on white; text that is too long is cut off."""
    from PIL import Image, ImageDraw

    line = Image.new("L", (image.shape[-1], 16), 255)
    ImageDraw.Draw(line).text((3, 2), text, fill=0)
    strip_of_text = torch.from_numpy(np.array(line)).expand(image.shape[0], -1, -1)
    return torch.cat([strip_of_text, image.cpu()], dim=1)
