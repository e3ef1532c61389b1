"""Linear layers whose outputs are arguments of sines."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def full_precision(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 of float64: an angle of some hundred radians in bfloat16 is off by one."""
    return torch.promote_types(dtype, torch.float32)


class AngleLinear(nn.Linear):
    """ω (W x + b) as one product, (ωW) x + ωb, in float32 or better whatever autocast and the weights' number type are.

    Args:
        inputs, outputs: as of `nn.Linear`, whose initialisation it starts from.
        omega: ω, fixed.
    """

    def __init__(self, inputs: int, outputs: int, omega: float | int):
        super().__init__(inputs, outputs)
        self.omega = float(omega)

    def folded(self) -> tuple[Float[Tensor, "outputs inputs"], Float[Tensor, " outputs"]]:
        """ωW and ωb in float32 or better."""
        dtype = full_precision(self.weight.dtype)
        return self.omega * self.weight.to(dtype), self.omega * self.bias.to(dtype)

    def forward(self, input: Float[Tensor, "*points inputs"]) -> Float[Tensor, "*points outputs"]:
        weight, bias = self.folded()
        with torch.autocast(input.device.type, enabled=False):
            return F.linear(input.to(weight.dtype), weight, bias)


def siren_bound(inputs: int, omega: float, first: bool) -> float:
    """The bound c of the uniform distribution U(-c, c) that a SIREN's weights start from.

    1 / n of the first layer and √(6 / n) / ω of the later ones, n inputs each (Sitzmann et al. 2020, section 3.2 and
    supplement 1.5): ω cancels in the later layers' products ωW z, which come out about N(0, 1) at any depth.
    """
    return 1 / inputs if first else math.sqrt(6 / inputs) / omega


class Places:
    """Points, at which sines and cosines of linear functions of their coordinates are wanted.

    Activations here are `[width, points]`: an axis of the points is then one run of numbers, over which a product with a
    number per channel is fast. In `[points, width]` the same products take ten times as long on a CPU.
    """

    def __init__(self, coords: Float[Tensor, "points axes"]):
        self.coords = coords
        self.rows = torch.cat([coords, torch.ones_like(coords[:, :1])], dim=1).T.contiguous()  # [axes + 1, points]

    def linear(
        self, weight: Float[Tensor, "width axes"], bias: Float[Tensor, " width"]
    ) -> Float[Tensor, "width points"]:
        """W x + b at every point."""
        return torch.mm(torch.cat([weight, bias[:, None]], dim=1), self.rows.to(weight.dtype))

    def sines(
        self, weight: Float[Tensor, "width axes"], bias: Float[Tensor, " width"]
    ) -> tuple[Float[Tensor, "width points"], Float[Tensor, "width points"]]:
        """Sine and cosine of W x + b at every point; both are the caller's to overwrite."""
        angles = self.linear(weight, bias)
        return angles.sin(), angles.cos_()

    def gradients(
        self, by_angle: Float[Tensor, "width points"]
    ) -> tuple[Float[Tensor, "width axes"], Float[Tensor, " width"]]:
        """Gradients of W and b, given those of W x + b."""
        both = torch.mm(self.rows.to(by_angle.dtype), by_angle.T)  # the other way round takes four times as long
        return both[:-1].T, both[-1]


class GridPlaces(Places):
    """A run of points of a grid in row-major order, where sines are products of sines of each axis.

    With sin(α + β) = sin α cos β + cos α sin β, and cos likewise, 16 rows of 256 points take 272 sines per function in
    place of 4,096, and two products and a sum per point. `places_of` finds out whether points are such a run.

    Args:
        coords: the points.
        axes: the coordinates that occur along each axis, rising; their grid holds the points and perhaps some around them.
        start: number of the first point in that grid.
    """

    def __init__(self, coords: Float[Tensor, "points axes"], axes: list[Float[Tensor, "_"]], start: int):
        super().__init__(coords)
        self.start, self.lengths = start, [len(axis) for axis in axes]
        self.axes = torch.cat(axes)

    def sines(
        self, weight: Float[Tensor, "width axes"], bias: Float[Tensor, " width"]
    ) -> tuple[Float[Tensor, "width points"], Float[Tensor, "width points"]]:
        of_axes = self.axes.to(weight.dtype).split(self.lengths)
        angles = [torch.outer(column, axis) for column, axis in zip(weight.T, of_axes, strict=True)]
        angles[0] += bias[:, None]
        table = torch.cat(angles, dim=1)
        (sine, *sines), (cosine, *cosines) = (part.split(self.lengths, dim=1) for part in (table.sin(), table.cos()))
        for axis_sine, axis_cosine in zip(sines, cosines, strict=True):
            sine, cosine, axis_sine, axis_cosine = (
                sine[..., None],
                cosine[..., None],
                axis_sine[:, None],
                axis_cosine[:, None],
            )
            sine, cosine = (
                (sine * axis_cosine).addcmul_(cosine, axis_sine).flatten(1),
                (cosine * axis_cosine).addcmul_(sine, axis_sine, value=-1).flatten(1),
            )
        stop = self.start + len(self.coords)
        return sine[:, self.start : stop], cosine[:, self.start : stop]


def places_of(coords: Float[Tensor, "points axes"]) -> Places:
    """The points as `GridPlaces` where they are a run of a grid, in row-major order, on a CPU; as `Places` otherwise.

    On a GPU sines cost nothing beside the memory that they are written to.
    """
    if coords.device.type != "cpu" or not _may_be_run(coords):
        return Places(coords)
    axes, number = [], torch.zeros(len(coords), dtype=torch.long)
    for column in coords.T:
        values, index = column.unique(return_inverse=True)
        axes.append(values)
        number = number * len(values) + index
    start = int(number[0])
    fills_its_grid = math.prod(map(len, axes)) <= 2 * len(coords)
    in_a_row = torch.equal(number, torch.arange(start, start + len(coords)))
    return GridPlaces(coords, axes, start) if fills_its_grid and in_a_row else Places(coords)


def _may_be_run(coords: Tensor) -> bool:
    """A quick look: among the first points of a run, two neighbours at least differ along the last axis alone."""
    head = coords[:3, :-1]
    return len(coords) >= 64 and bool((head[1:] == head[:-1]).all(dim=1).any())
