"""Linear layers whose outputs are the arguments of sines, and fast sines on grids."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def full_precision(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32: in bfloat16 an angle of a few hundred radians is off by one."""
    return torch.promote_types(dtype, torch.float32)


MOST_AXES = 4
"""Inputs up to which a linear layer is one of coordinates."""


def coordinate_product(
    coords: Float[Tensor, "*points axes"], weight: Float[Tensor, "width axes"], bias: Float[Tensor, " width"]
) -> Float[Tensor, "*points width"]:
    """W x + b in full float32, whatever `torch.set_float32_matmul_precision` allows.

    In TF32, which bf16 runs allow, coordinates have 11 bits: an angle of 90 periods is off by 0.1 rad, and only 6,144 of 8,192
    pixels differ. So there the sum over the few axes is written out, at a pass over the result per axis.
    """
    # a compiler cannot trace the setting, and fuses the sum below
    if not torch.compiler.is_compiling() and torch.get_float32_matmul_precision() == "highest":
        return F.linear(coords, weight, bias)
    result = torch.addcmul(bias, coords[..., :1], weight[:, 0])
    for axis in range(1, coords.shape[-1]):
        result = torch.addcmul(result, coords[..., axis : axis + 1], weight[:, axis])
    return result


class AngleLinear(nn.Linear):
    """ω (W x + b) as one product, (ωW) x + ωb, in float32 or better under autocast and with weights in half precision.

    Args:
        inputs, outputs: as in `nn.Linear`, whose initialisation it keeps.
        omega: ω, which is not trained.
    """

    def __init__(self, inputs: int, outputs: int, omega: float | int):
        super().__init__(inputs, outputs)
        self.omega = float(omega)

    def precise(self) -> tuple[Float[Tensor, "outputs inputs"], Float[Tensor, " outputs"]]:
        """W and b in float32 or better."""
        dtype = full_precision(self.weight.dtype)
        return self.weight.to(dtype), self.bias.to(dtype)

    def forward(self, input: Float[Tensor, "*points inputs"]) -> Float[Tensor, "*points outputs"]:
        weight, bias = self.precise()
        with torch.autocast(input.device.type, enabled=False):
            product = coordinate_product if self.in_features <= MOST_AXES else F.linear
            return product(input.to(weight.dtype), self.omega * weight, self.omega * bias)


def siren_bound(inputs: int, omega: float, first: bool) -> float:
    """The bound c of the uniform distribution U(-c, c) that initialises a SIREN's weights.

    For n inputs it is 1 / n in the first layer and √(6 / n) / ω in later ones (Sitzmann et al. 2020, section 3.2 and
    supplement 1.5): ω cancels in the later layers' products ωW z, which are about N(0, 1) at any depth.
    """
    return 1 / inputs if first else math.sqrt(6 / inputs) / omega


class Places:
    """Points at which to compute sines and cosines of linear functions of the coordinates.

    Activations here are `[width, points]`: a channel's points are then contiguous, and multiplying them by one number
    per channel is fast. In `[points, width]` the same products take ten times as long on a CPU.
    """

    def __init__(self, coords: Float[Tensor, "points axes"]):
        self.coords = coords
        self.rows = torch.cat([coords, torch.ones_like(coords[:, :1])], dim=1).T.contiguous()  # [axes + 1, points]

    def linear(
        self, weight: Float[Tensor, "width axes"], bias: Float[Tensor, " width"]
    ) -> Float[Tensor, "width points"]:
        """W x + b at every point."""
        if torch.get_float32_matmul_precision() != "highest":  # see coordinate_product
            return coordinate_product(self.coords.to(weight.dtype), weight, bias).T.contiguous()
        return torch.mm(torch.cat([weight, bias[:, None]], dim=1), self.rows.to(weight.dtype))

    def sines(
        self, weight: Float[Tensor, "width axes"], bias: Float[Tensor, " width"]
    ) -> tuple[Float[Tensor, "width points"], Float[Tensor, "width points"]]:
        """Sine and cosine of W x + b at every point; the caller may overwrite both."""
        angles = self.linear(weight, bias)
        return angles.sin(), angles.cos_()

    def gradients(
        self, by_angle: Float[Tensor, "width points"]
    ) -> tuple[Float[Tensor, "width axes"], Float[Tensor, " width"]]:
        """Gradients of W and b from those of W x + b."""
        # transposed at the end: the product in the other order takes four times as long
        gradients = torch.mm(self.rows.to(by_angle.dtype), by_angle.T)  # [axes + 1, width]
        return gradients[:-1].T, gradients[-1]


class GridPlaces(Places):
    """Consecutive points of a grid in row-major order, where sines are computed from those of each axis.

    With sin(α + β) = sin α cos β + cos α sin β, and cos likewise, 16 rows of 256 points take 272 sines per function
    instead of 4,096, plus two products and a sum per point. `places_of` recognises such points.

    Args:
        coords: the points.
        axes: the coordinates that occur along each axis, ascending; their grid contains the points, and may be larger.
        start: index of the first point in that grid.
    """

    def __init__(self, coords: Float[Tensor, "points axes"], axes: list[Float[Tensor, "_"]], start: int):
        super().__init__(coords)
        self.start, self.lengths = start, [len(axis) for axis in axes]
        self.axes = torch.cat(axes)

    def sines(
        self, weight: Float[Tensor, "width axes"], bias: Float[Tensor, " width"]
    ) -> tuple[Float[Tensor, "width points"], Float[Tensor, "width points"]]:
        axes = self.axes.to(weight.dtype).split(self.lengths)
        angles = [torch.outer(column, axis) for column, axis in zip(weight.T, axes, strict=True)]
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
    """`GridPlaces` if the points are consecutive ones of a grid, in row-major order, on a CPU; `Places` otherwise.

    On a GPU, computing sines costs nothing compared with writing them to memory.
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
    """A cheap test first: of any three consecutive points of a grid, two neighbours differ along the last axis alone."""
    head = coords[:3, :-1]
    return len(coords) >= 64 and bool((head[1:] == head[:-1]).all(dim=1).any())
