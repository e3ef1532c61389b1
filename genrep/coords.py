"""The one coordinate convention: pixel centres in [-1, 1], axes in array order (y, x), `align_corners=False`.

Index i of N along an axis is at -1 + (2i + 1) / N, so neighbours are 2 / N apart (the pitch) and the image covers [-1, 1]
from edge to edge. A grid may cover a region `(y0, x0, y1, x1)` instead.
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

Region = Sequence[Number] | Any  # checked by `image_region`
COORDS, TARGETS = ("grid", "gaussian", "uniform"), ("pixel", "bicubic")
"""The kinds of coordinates and targets of `draw_targets`."""


def image_shape(size: Integer | Sequence[Integer]) -> tuple[int, ...]:
    """`8` means 8×8; a sequence is one length per axis. Integers of any kind; InputError for anything else."""
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
    """One length per axis; a single number applies to all axes. InputError for another number of lengths."""
    shape = image_shape(size)
    if not isinstance(size, Sequence) and not hasattr(size, "__len__"):
        shape = shape[:1] * num_axes
    if len(shape) != num_axes:
        raise InputError(f"size must be one number, or {num_axes}, one per axis; got {shown(size)}")
    return shape


def image_region(region: Region | None, num_axes: int = 2) -> tuple[float, ...]:
    """The region as `num_axes` starts followed by `num_axes` ends; None is all of [-1, 1]. InputError if empty."""
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
        raise InputError(f"region must have every start below its end, (y0, x0, y1, x1); got {shown(region)}")
    return bounds


def grid(
    size: Integer | Sequence[Integer],
    region: Region | None = None,
    *,
    start: Integer = 0,
    stop: Integer | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "points axes"]:
    """Pixel centres of a grid in row-major order, `[points, axes]` float32; only points `start` to `stop - 1` if given.

    The rest of the grid is not computed, so chunks of any grid fit in memory.
    """
    total = math.prod(image_shape(size))
    start, stop = as_integer(start, "start", low=0), total if stop is None else min(as_integer(stop, "stop"), total)
    return grid_at(torch.arange(start, stop, device=device), size, region)


def grid_at(
    index: Int[Tensor, " points"], size: Integer | Sequence[Integer], region: Region | None = None
) -> Float[Tensor, "points axes"]:
    """The pixel centres with these row-major indices in a grid, `[points, axes]` float32."""
    return points_at(axis_centres(size, region, device=index.device), index)


def axis_centres(
    size: Integer | Sequence[Integer], region: Region | None = None, *, device: torch.device | str | None = None
) -> list[Float[Tensor, "_"]]:
    """The pixel centres along each axis of a grid, float32."""
    # In float64, which keeps neighbours distinct in a small region of a large grid; on the CPU, because Apple's GPUs have no
    # float64.
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
    """The points with these row-major indices in the grid with these centres along its axes."""
    columns = []
    # Row-major: the last axis is the remainder, the axes before it are in the quotient.
    for centre in reversed(centres):
        columns.append(centre.index_select(0, index % len(centre)))
        index = index // len(centre)
    return torch.stack(columns[::-1], dim=-1)


@dataclasses.dataclass(frozen=True, eq=False)  # == of tensors has no truth value
class GridChunk:
    """Points `start` to `stop - 1`, in row-major order, of the grid with these `centres` along its axes.

    `render` passes chunks to decoders in this form: `points` are the coordinates, and with `axes` a sum over axes can be
    computed once per row and column. Nothing has to be searched for, so no synchronisation with a GPU is needed. A chunk may
    begin and end within a row; points 2 to 8 of a 3×4 grid have three centres along y and four along x:

        .  .  2  3        axes[0]: y₀ y₁ y₂,     index 0 0 1 1 1 1 2
        4  5  6  7        axes[1]: x₀ x₁ x₂ x₃,  index 2 3 0 1 2 3 0
        8  .  .  .
    """

    centres: tuple[Float[Tensor, "_"], ...]
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of `points`."""
        return self.stop - self.start, len(self.centres)

    @functools.cached_property
    def points(self) -> Float[Tensor, "points axes"]:
        return points_at(self.centres, self._numbers())

    @functools.cached_property
    def axes(self) -> tuple[tuple[Float[Tensor, "_"], Int[Tensor, " points"]], ...]:
        """For each axis, the centres that occur in this chunk, and the index into them for each point."""
        numbers, stride, axes = self._numbers(), 1, []
        for centres in reversed(self.centres):
            # Positions along the axis that do not wrap around, such as the rows of a volume counted through all its slices.
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
"""Coordinates to decode at: a tensor `[..., axes]`, or a chunk of a grid."""


def as_points(coords: Coords) -> Float[Tensor, "*points axes"]:
    """The coordinates as a tensor."""
    return coords.points if isinstance(coords, GridChunk) else coords


def pitch(size: Integer | Sequence[Integer], region: Region | None = None) -> tuple[float, ...]:
    """The distance between neighbouring pixel centres along each axis: 2 / N for the whole image."""
    shape = image_shape(size)
    bounds = image_region(region, len(shape))
    return tuple((bounds[axis + len(shape)] - bounds[axis]) / shape[axis] for axis in range(len(shape)))


def region_of(size: Integer | Sequence[Integer], image_size: Integer | Sequence[Integer]) -> tuple[float, ...]:
    """The region of an image of `size` whose pixels are as large as those of an image of `image_size` that covers [-1, 1].

    The image is centred at 0: with N pixels of `image_size` along an axis, n pixels cover [-n / N, n / N].
    """
    shape = image_shape(size)
    extent = [length / unit for length, unit in zip(shape, grid_shape(image_size, len(shape)), strict=True)]
    return (*(-half for half in extent), *extent)


def jitter_gaussian(
    coords: Float[Tensor, "points axes"],
    size: Integer | Sequence[Integer],
    generator: torch.Generator,
    std: float = 0.15,
    clip: float = 0.25,
) -> Float[Tensor, "points axes"]:
    """Variational coordinates (ANR eq. 9): Gaussian shifts with a standard deviation of `std` pixels, clipped to ±`clip`.

    The defaults are the published 0.3/N and 0.5/N in coordinates whose pitch is 2/N. A clip below 0.5 keeps every point
    nearer to its own pixel than to a neighbour.
    """
    # Clipped after scaling, as in the published code: clipping V before it, as eq. 9 is printed, leaves almost no noise.
    noise = torch.randn(coords.shape, generator=generator).mul_(std).clamp_(-clip, clip)
    return coords + noise.to(coords.device) * coords.new_tensor(pitch(size))


def jitter_uniform(
    coords: Float[Tensor, "points axes"], size: Integer | Sequence[Integer], generator: torch.Generator
) -> Float[Tensor, "points axes"]:
    """Coordinates spread uniformly over the pixel around each centre, so that the image is covered without gaps."""
    noise = torch.rand(coords.shape, generator=generator).sub_(0.5)
    return coords + noise.to(coords.device) * coords.new_tensor(pitch(size))


def random_subset(num_points: int, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
    """`count` distinct indices below `num_points`, drawn uniformly. InputError if there are too few."""
    if not 0 < count <= num_points:
        raise InputError(f"the number of points to draw must be 1 to {num_points}; got {count}")
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
    """Random coordinates to train a decoder at, and the target values there.

    Pixels are drawn without replacement, then each coordinate is shifted within its pixel. ANR uses `coords="gaussian"` with
    `targets="pixel"`: a shifted coordinate keeps its pixel's value, which teaches blocks with seams between them.
    `coords="uniform"` with `targets="bicubic"` trains on the interpolated image everywhere.

    Args:
        signals: signals on a grid of any number of axes, such as images `[B, C, H, W]`; "pixel" means a point of the grid.
        generator: one for coordinates `[N, axes]` shared by the batch, or one per signal for `[B, N, axes]`.
        size: the grid whose pixels are drawn, one length per axis or one for all; None is the signals' own.
        num_coords: number of pixels to draw; None is all, in order.
        coords: "grid" (pixel centres), "gaussian" (`jitter_gaussian`) or "uniform" (`jitter_uniform`).
        targets: "pixel", the value at the pixel's centre, or "bicubic", the image interpolated at the coordinate.
        jitter_std, jitter_clip: standard deviation and limit of the Gaussian shifts, in pixels.
        missing: NaN means a missing value, see `values_at`.

    Raises:
        InputError: more coordinates than there are pixels, or an unknown kind of coordinates or targets.
    """
    for name, value, known in (("coords", coords, COORDS), ("targets", targets, TARGETS)):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}; got {value!r}{did_you_mean(value, known)}")
    shape = tuple(signals.shape[2:]) if size is None else grid_shape(size, signals.ndim - 2)
    total = math.prod(shape)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Indices of pixels, and the shifts of the coordinates from their centres."""
        chosen = torch.arange(total) if num_coords is None else random_subset(total, num_coords, generator)
        at_centres = torch.zeros(len(chosen), len(shape))
        if coords == "gaussian":
            return chosen, jitter_gaussian(at_centres, shape, generator, jitter_std, jitter_clip)
        return chosen, jitter_uniform(at_centres, shape, generator) if coords == "uniform" else at_centres

    if isinstance(generator, torch.Generator):
        chosen, shifts = draw(generator)
    else:  # separate coordinates for every image, as in the published code
        chosen, shifts = (torch.stack(part) for part in zip(*map(draw, generator), strict=True))
    # Drawn on the CPU, so that they are the same on every device. A blocking copy would wait for the GPU's whole queue.
    chosen, shifts = (part.to(signals.device, non_blocking=True) for part in (chosen, shifts))
    centres = grid_at(chosen.flatten(), shape).unflatten(0, chosen.shape)
    points = centres + shifts
    if targets == "pixel":
        return points, values_at(signals, centres, "nearest")
    return points, values_at(signals, points, "bicubic", missing)
