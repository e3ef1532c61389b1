"""The one coordinate convention: pixel centres in [-1, 1], axes in array order (y, x), `align_corners=False`.

Index i among N along an axis sits at -1 + (2i + 1) / N, so neighbours are 2 / N apart (the pitch) and the image
covers [-1, 1] from edge to edge. A region `(y0, x0, y1, x1)` is the rectangle that a grid covers instead.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrep.arguments import Integer, Number, as_integer, as_number, shown
from genrep.errors import InputError, did_you_mean
from genrep.interpolation import values_at

Region = Sequence[Number] | Any  # `image_region` says what it is
COORDS, TARGETS = ("grid", "gaussian", "uniform"), ("pixel", "bicubic")
"""Kinds of coordinates and targets that `draw_targets` draws."""


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


def grid_shape(size: Integer | Sequence[Integer], num_axes: int) -> tuple[int, ...]:
    """One length for every axis: a number stands for all of them. InputError for another number of lengths."""
    shape = image_shape(size)
    if not isinstance(size, Sequence) and not hasattr(size, "__len__"):
        shape = shape[:1] * num_axes
    if len(shape) != num_axes:
        raise InputError(f"size must be one number, or {num_axes}, one per axis; got {shown(size)}")
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
    return points_at(axis_centres(size, region, device=index.device), index)


def axis_centres(
    size: Integer | Sequence[Integer], region: Region | None = None, *, device: torch.device | str | None = None
) -> list[Float[Tensor, "_"]]:
    """The pixel centres along each axis of a grid, float32.

    They are computed in float64, which keeps neighbours distinct in a small region of a large grid; and on the CPU, since
    Apple's GPUs have no float64.
    """
    shape = image_shape(size)
    bounds = image_region(region, len(shape))
    centres = []
    for axis, length in enumerate(shape):
        low, high = bounds[axis], bounds[axis + len(shape)]
        number = torch.arange(length, dtype=torch.float64, device="cpu")
        centres.append(
            number.add_(0.5).mul_((high - low) / length).add_(low).to(torch.float32).to(device, non_blocking=True)
        )
    return centres


def points_at(centres: Sequence[Float[Tensor, "_"]], index: Int[Tensor, " points"]) -> Float[Tensor, "points axes"]:
    """The points with these numbers, in row-major order, of the grid with these centres along its axes."""
    columns = []
    for centre in reversed(centres):
        columns.append(centre.index_select(0, index % len(centre)))
        index = index // len(centre)
    return torch.stack(columns[::-1], dim=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class GridChunk:
    """Points `start` to `stop - 1`, in row-major order, of the grid with these `centres` along its axes.

    `render` decodes a grid in chunks, and hands them on as what they are: whoever needs coordinates takes `points`, and
    what is a sum over axes can be computed once per row and column (`axes`). Nothing has to be searched for, so a GPU is
    never waited for. A chunk may begin and end within a row; points 2 to 8 of a 3×4 grid have three centres along y
    and four along x:

        .  .  2  3        axes[0]: y₀ y₁ y₂,     index 0 0 1 1 1 1 2
        4  5  6  7        axes[1]: x₀ x₁ x₂ x₃,  index 2 3 0 1 2 3 0
        8  .  .  .
    """

    centres: tuple[Float[Tensor, "_"], ...]
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, int]:
        """That of `points`."""
        return self.stop - self.start, len(self.centres)

    @functools.cached_property
    def points(self) -> Float[Tensor, "points axes"]:
        return points_at(self.centres, self._numbers())

    @functools.cached_property
    def axes(self) -> tuple[tuple[Float[Tensor, "_"], Int[Tensor, " points"]], ...]:
        """For each axis, the centres that occur in this chunk, and which of them each point has."""
        numbers, stride, axes = self._numbers(), 1, []
        for centres in reversed(self.centres):
            # The axis's position as if it were never reset: all the rows of a volume, say, counted through.
            first, last = self.start // stride, (self.stop - 1) // stride
            if last - first + 1 < len(centres):
                occurring = torch.arange(first, last + 1, device=centres.device) % len(centres)
                axes.append((centres.index_select(0, occurring), numbers // stride - first))
            else:
                axes.append((centres, numbers // stride % len(centres)))
            stride *= len(centres)
        return tuple(axes[::-1])

    def _numbers(self) -> Int[Tensor, " points"]:
        return torch.arange(self.start, self.stop, device=self.centres[0].device)


Coords = Tensor | GridChunk
"""Where to decode: any coordinates `[..., axes]`, or a chunk of a grid."""


def as_points(coords: Coords) -> Float[Tensor, "*points axes"]:
    """The coordinates as a tensor."""
    return coords.points if isinstance(coords, GridChunk) else coords


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


def draw_targets(
    signals: Float[Tensor, "batch channels *shape"],
    generator: torch.Generator | Sequence[torch.Generator],
    *,
    size: int | Sequence[int] | None = None,
    num_coords: int | None = None,
    coords: str = "uniform",
    targets: str = "bicubic",
    jitter_std: float = 0.15,
    jitter_clip: float = 0.25,
    missing: bool = False,
) -> tuple[Float[Tensor, "points axes"] | Float[Tensor, "batch points axes"], Float[Tensor, "batch points channels"]]:
    """Coordinates at which to ask a decoder for signals, drawn at random, and what it should say there.

    Pixels are drawn without replacement, then each coordinate is shifted within its pixel. ANR's way is `coords="gaussian"`
    with `targets="pixel"`: a shifted coordinate keeps its pixel's value, which teaches blocks with seams between them.
    `coords="uniform"` with `targets="bicubic"` asks for the interpolated image anywhere.

    Args:
        signals: on a grid of any number of axes, such as images `[B, C, H, W]`; a point of the grid is called a pixel here.
        generator: one for coordinates `[N, axes]` that the batch shares, or one per signal for `[B, N, axes]`.
        size: of the grid whose pixels are drawn, one length an axis or one for all; None is the signals' own.
        num_coords: how many of its pixels; None is all, in order.
        coords: "grid" (pixel centres), "gaussian" (`jitter_gaussian`) or "uniform" (`jitter_uniform`).
        targets: "pixel", the value at the pixel's centre, or "bicubic", the image interpolated at the coordinate.
        jitter_std, jitter_clip: of Gaussian shifts, in pixels.
        missing: NaN stands for values that are not there, see `values_at`.

    Raises:
        InputError: more coordinates than there are pixels, or an unknown kind of coordinates or targets.
    """
    for name, value, known in (("coords", coords, COORDS), ("targets", targets, TARGETS)):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}; got {value!r}{did_you_mean(value, known)}")
    shape = tuple(signals.shape[2:]) if size is None else grid_shape(size, signals.ndim - 2)
    total = math.prod(shape)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Indices of pixels, and how far from their centres the coordinates are."""
        chosen = torch.arange(total) if num_coords is None else random_subset(total, num_coords, generator)
        at_centres = torch.zeros(len(chosen), len(shape))
        if coords == "gaussian":
            return chosen, jitter_gaussian(at_centres, shape, generator, jitter_std, jitter_clip)
        return chosen, jitter_uniform(at_centres, shape, generator) if coords == "uniform" else at_centres

    if isinstance(generator, torch.Generator):
        chosen, shifts = draw(generator)
    else:
        chosen, shifts = (torch.stack(part) for part in zip(*map(draw, generator), strict=True))
    # non_blocking: a plain copy to a GPU waits until it has done all that was asked of it before
    chosen, shifts = (part.to(signals.device, non_blocking=True) for part in (chosen, shifts))
    centres = grid_at(chosen.flatten(), shape).unflatten(0, chosen.shape)
    points = centres + shifts
    if targets == "pixel":
        return points, values_at(signals, centres, "nearest")
    return points, values_at(signals, points, "bicubic", missing)
