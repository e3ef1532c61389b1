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
    """Points at which to compute sines of linear functions of the coordinates, and the gradients of their weights.

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

    def gradients(
        self, by_angle: Float[Tensor, "width points"]
    ) -> tuple[Float[Tensor, "width axes"], Float[Tensor, " width"]]:
        """Gradients of W and b from those of W x + b."""
        # transposed at the end: the product in the other order takes four times as long
        gradients = torch.mm(self.rows.to(by_angle.dtype), by_angle.T)  # [axes + 1, width]
        return gradients[:-1].T, gradients[-1]

    def sine(
        self, weight: Float[Tensor, "width axes"], bias: Float[Tensor, " width"]
    ) -> tuple[Float[Tensor, "width points"], tuple[Tensor, ...]]:
        """sin(W x + b) at every point, which the caller may overwrite, and its slopes: what `weighted` takes."""
        angles = self.linear(weight, bias)
        return angles.sin(), (angles.cos_(),)

    def weighted(self, slopes: tuple[Tensor, ...], factor: Float[Tensor, "width points"]) -> tuple[Tensor, ...]:
        """The slopes of factor * sin(W x + b) from those of sin(W x + b), which may be overwritten.

        They may hold `factor` itself, which the caller must not overwrite afterwards.
        """
        (cosine,) = slopes
        return (cosine.mul_(factor),)

    def sine_gradients(
        self, gradient: Float[Tensor, "width points"], slopes: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "width axes"], Float[Tensor, " width"]]:
        """Gradients of W and b from that of factor * sin(W x + b), whose slopes `weighted` returned."""
        (cosine,) = slopes
        return self.gradients(cosine * gradient)


class GridPlaces(Places):
    """Consecutive points of a grid in row-major order, where sines are computed from those of rows and columns.

    With sin(α + β) = sin α cos β + cos α sin β, 16 rows of 256 points take 272 sines and 272 cosines instead of 4,096
    sines, plus two products and a sum per point. Gradients need no cosine of a point: that of b, Σ γ cos(α + β), is
    Σ_rows [cos α (Σ_columns γ cos β) - sin α (Σ_columns γ sin β)]. `places_of` recognises such points.

    Args:
        coords: the points.
        row_coords: the coordinates of every row, which are all axes but the last.
        column_coords: the coordinates along the last axis, those of a whole row.
        start: how many points the first row lacks at its beginning.
    """

    def __init__(
        self,
        coords: Float[Tensor, "points axes"],
        row_coords: Float[Tensor, "rows _"],
        column_coords: Float[Tensor, " columns"],
        start: int,
    ):
        super().__init__(coords)
        self.row_coords, self.column_coords = row_coords, column_coords
        self.shape = len(row_coords), len(column_coords)
        self.start, self.stop = start, start + len(coords)

    def sine(
        self, weight: Float[Tensor, "width axes"], bias: Float[Tensor, " width"]
    ) -> tuple[Float[Tensor, "width points"], tuple[Tensor, ...]]:
        row_angles = coordinate_product(self.row_coords.to(weight.dtype), weight[:, :-1], bias).T.contiguous()  # α
        column_angles = torch.outer(weight[:, -1], self.column_coords.to(weight.dtype))  # β
        row_sine, row_cosine = row_angles.sin(), row_angles.cos()
        sine, cosine = column_angles.sin(), column_angles.cos()
        sines = (row_sine[:, :, None] * cosine[:, None]).addcmul_(row_cosine[:, :, None], sine[:, None])
        # cos(α + β) is the sum of the products of these
        slopes = torch.stack([row_cosine, -row_sine], dim=1), torch.stack([cosine, sine], dim=1)
        return sines.flatten(1)[:, self.start : self.stop], slopes

    def weighted(self, slopes: tuple[Tensor, ...], factor: Float[Tensor, "width points"]) -> tuple[Tensor, ...]:
        return *slopes, factor

    def sine_gradients(
        self, gradient: Float[Tensor, "width points"], slopes: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "width axes"], Float[Tensor, " width"]]:
        row_slopes, column_slopes, factor = slopes
        weighted, after = factor * gradient, math.prod(self.shape) - self.stop
        if self.start or after:
            weighted = F.pad(weighted, (self.start, after))
        # sums over columns, with weights of 1 for the gradients of α and x for that of β = W x
        table = torch.cat([column_slopes, column_slopes * self.column_coords.to(column_slopes.dtype)], dim=1)
        sums = torch.bmm(table, weighted.unflatten(1, self.shape).transpose(1, 2))  # [width, 4, rows]
        by_row, by_column = (sums.unflatten(1, (2, 2)) * row_slopes[:, None]).sum(2).unbind(1)
        by_weight = torch.cat([by_row @ self.row_coords.to(by_row.dtype), by_column.sum(1, keepdim=True)], dim=1)
        return by_weight, by_row.sum(1)


def places_of(coords: Float[Tensor, "points axes"]) -> Places:
    """`GridPlaces` if the points are consecutive ones of a grid, in row-major order, on a CPU; `Places` otherwise.

    On a GPU, computing sines costs nothing compared with writing them to memory. On a line, no points share a column.
    """
    if coords.device.type != "cpu" or coords.shape[1] == 1 or not _may_be_run(coords):
        return Places(coords)
    column_coords = coords[:, -1].unique()
    length = len(column_coords)
    start = int(torch.searchsorted(column_coords, coords[0, -1]))
    number = torch.arange(start, start + len(coords))
    row, column = number // length, number % length
    num_rows = int(row[-1]) + 1
    if num_rows * length > 2 * len(coords) or not torch.equal(coords[:, -1], column_coords[column]):
        return Places(coords)
    first_of_row = (torch.arange(num_rows) * length - start).clamp_(min=0)
    row_coords = coords[first_of_row, :-1]
    is_grid = torch.equal(coords[:, :-1], row_coords[row])
    return GridPlaces(coords, row_coords, column_coords, start) if is_grid else Places(coords)


def _may_be_run(coords: Tensor) -> bool:
    """A cheap test first: of any three consecutive points of a grid, two neighbours differ along the last axis alone."""
    head = coords[:3, :-1]
    return len(coords) >= 64 and bool((head[1:] == head[:-1]).all(dim=1).any())
