"""The one coordinate convention: pixel centres in [-1, 1], axes in array order (y, x), `align_corners=False`.

Index i among N along an axis sits at -1 + (2i + 1) / N, so neighbours are 2 / N apart (the pitch) and the image
covers [-1, 1] from edge to edge. A region `(y0, x0, y1, x1)` is the rectangle that a grid covers instead.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from genrep.arguments import Integer, Number, as_integer, as_number, shown
from genrep.errors import InputError

Region = Sequence[Number] | Any  # `image_region` says what it is


def image_shape(size: Integer | Sequence[Integer]) -> tuple[int, ...]:
    """`8` means 8×8; a sequence is one length an axis. Integers of any kind; InputError for anything else."""
    try:
        lengths: tuple[Any, ...] = tuple(size)
    except TypeError:
        lengths = (size, size)
    try:
        shape = tuple(as_integer(length, "size", low=1) for length in lengths)
    except InputError:
        shape = ()
    if not shape:
        raise InputError(f"size must be a positive integer, or one per axis (height, width); got {shown(size)}")
    return shape


def image_region(region: Region | None, num_axes: int = 2) -> tuple[float, ...]:
    """The region as `num_axes` starts and then `num_axes` ends; None is all of [-1, 1]. InputError if empty."""
    if region is None:
        return (-1.0,) * num_axes + (1.0,) * num_axes
    try:
        bounds = tuple(as_number(bound, "a bound") for bound in region)
    except (InputError, TypeError):
        bounds = ()
    if len(bounds) != 2 * num_axes:
        raise InputError(
            f"region must be {2 * num_axes} finite numbers, starts then ends (y0, x0, y1, x1); got {shown(region)}"
        )
    if any(start >= end for start, end in zip(bounds[:num_axes], bounds[num_axes:], strict=True)):
        raise InputError(f"region {region!r} is empty: every start must lie below its end, (y0, x0, y1, x1)")
    return bounds


def grid(
    size: Integer | Sequence[Integer],
    region: Region | None = None,
    *,
    start: Integer = 0,
    stop: Integer | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "points axes"]:
    """Pixel centres of a grid in row-major order, `[points, axes]` float32; `start` and `stop` cut out a run of points.

    A run is computed by itself: the whole grid is never held.
    """
    total = math.prod(image_shape(size))
    start, stop = as_integer(start, "start", low=0), total if stop is None else min(as_integer(stop, "stop"), total)
    return grid_at(torch.arange(start, stop, device=device), size, region)


def grid_at(
    index: Int[Tensor, " points"], size: Integer | Sequence[Integer], region: Region | None = None
) -> Float[Tensor, "points axes"]:
    """The pixel centres of a grid with these numbers in row-major order, `[points, axes]` float32."""
    shape = image_shape(size)
    bounds = image_region(region, len(shape))
    axes = []
    for axis in reversed(range(len(shape))):
        low, high, length = bounds[axis], bounds[axis + len(shape)], shape[axis]
        # double precision here costs nothing and keeps neighbours distinct in a small region of a large grid
        centre = (index % length).to(torch.float64).add_(0.5).mul_((high - low) / length).add_(low)
        axes.append(centre.to(torch.float32))
        index = index // length
    return torch.stack(axes[::-1], dim=-1)


def pitch(size: Integer | Sequence[Integer], region: Region | None = None) -> tuple[float, ...]:
    """Distance between neighbouring pixel centres along each axis: 2 / N for the whole image."""
    shape = image_shape(size)
    bounds = image_region(region, len(shape))
    return tuple((bounds[axis + len(shape)] - bounds[axis]) / shape[axis] for axis in range(len(shape)))


def jitter_gaussian(
    coords: Float[Tensor, "points axes"],
    size: Integer | Sequence[Integer],
    generator: torch.Generator,
    std: float = 0.15,
    clip: float = 0.25,
) -> Float[Tensor, "points axes"]:
    """Variational coordinates (ANR eq. 9): Gaussian shifts of `std` pixels, clipped to ±`clip` pixels.

    The defaults are the published 0.3/N and 0.5/N in coordinates whose pitch is 2/N. The shift is clipped after scaling:
    clipping V before it, as eq. 9 is printed, would leave almost no noise. A clip below 0.5 keeps every point nearer to
    its own pixel than to a neighbour.
    """
    noise = torch.randn(coords.shape, generator=generator).mul_(std).clamp_(-clip, clip)
    return coords + noise.to(coords.device) * coords.new_tensor(pitch(size))


def jitter_uniform(
    coords: Float[Tensor, "points axes"], size: Integer | Sequence[Integer], generator: torch.Generator
) -> Float[Tensor, "points axes"]:
    """Coordinates spread evenly over the whole pixel around each centre; the image is covered without gaps."""
    noise = torch.rand(coords.shape, generator=generator).sub_(0.5)
    return coords + noise.to(coords.device) * coords.new_tensor(pitch(size))


def random_subset(num_points: int, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
    """`count` different indices below `num_points`, uniformly without replacement. InputError if there are too few."""
    if not 0 < count <= num_points:
        raise InputError(f"{count} points cannot be drawn from {num_points}: ask for 1 to {num_points}")
    return torch.randperm(num_points, generator=generator)[:count]


def values_at(
    images: Float[Tensor, "batch channels height width"],
    coords: Float[Tensor, "points 2"],
    interpolation: str = "bicubic",
) -> Float[Tensor, "batch points channels"]:
    """Values of images at coordinates that the batch shares, `[B, N, C]`; beyond the border the edge pixel goes on.

    `interpolation` is "nearest", "bilinear" or "bicubic" (a = -0.75), as in `torch.nn.functional.interpolate`.
    """
    batch, channels = images.shape[:2]
    flat = images.reshape(1, batch * channels, *images.shape[2:])  # one grid for all: images become channels
    points = coords.flip(-1).to(images.dtype)[None, :, None]  # grid_sample wants (x, y)
    sampled = F.grid_sample(flat, points, mode=interpolation, padding_mode="border", align_corners=False)
    return sampled.reshape(batch, channels, -1).transpose(1, 2)
