"""The expert linear layer of Levels-of-Experts, and the order of points in which it costs what a Linear costs.

`ExpertLinear` multiplies every point with the weight matrix of its tile. Points of one tile must meet one product, so they
are brought together: an `Arrangement` plans, once for the points and for all layers, an order of the points for each
layer. On a regular grid whose tilings subdivide each other there is one order for all layers, in which every layer's tile
is an axis of a reshaped array: nothing is moved between layers at all. Other points are sorted by the layer's tile, which
moves the activations once a layer.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from genrep.nn.tiling import Tiling


class Axis:
    """Where a layer's tiles lie among ordered points: `[before, tiles, after]` is the points' axis, reshaped."""

    def __init__(self, before: int, num_tiles: int, after: int):
        self.before, self.num_tiles, self.after = before, num_tiles, after

    def parts(self, values: Float[Tensor, "batch points dim"]) -> list[Tensor]:
        """The points of every tile, views `[few, many, dim]` of `values`: few products of many rows."""
        array = values.view(-1, self.num_tiles, self.after, values.shape[-1])
        whole = array if array.shape[0] <= self.after else array.transpose(0, 2)
        return [whole.select(1, tile) for tile in range(self.num_tiles)]


class Runs:
    """Where a layer's tiles lie among points sorted by tile: `counts` points of each, one after another."""

    def __init__(self, counts: list[int]):
        self.counts, self.num_tiles = counts, len(counts)

    def parts(self, values: Float[Tensor, "batch points dim"]) -> list[Tensor]:
        """The points of every tile, views of `values`: few products of many rows."""
        parts = values.split(self.counts, dim=1)
        return [part if part.shape[0] <= part.shape[1] else part.transpose(0, 1) for part in parts]


class Blend:
    """Where a layer's tiles lie when 2^axes of them are blended: for each, the way to points sorted by it, and its weights."""

    def __init__(self, corners: "list[tuple[Move, Runs, Tensor]]"):
        self.corners = corners


Place = Axis | Runs | Blend
Move = tuple[Tensor, Tensor] | None
"""Where values come from, and where they go to when gradients return; None where everything stays."""


class Arrangement:
    """The order of some points in each of a stack of expert layers.

    Walk through the layers with `coords`, then for each layer number i `enter(values, i)` and the layer itself with
    `places[i]`, at the end `leave(values)`. What is computed at every point, like activations and sums, may stay in the
    order of the last layer entered.

    Args:
        coords: the points, in [-1, 1].
        tilings: of every layer, first to last.
    """

    def __init__(self, coords: Float[Tensor, "points axes"], tilings: Sequence[Tiling]):
        coords = coords.detach()
        nearest = {tiling: tiling.index(coords) for tiling in dict.fromkeys(tilings) if tiling.blending == "nearest"}
        # One order for as many layers as possible: each splits what the layers before it left together into equal parts.
        groups, key = 1, torch.zeros(len(coords), dtype=torch.long, device=coords.device)
        axes: dict[Tiling, Axis] = {}
        for tiling, index in nearest.items():
            finer, longer = groups * tiling.num_tiles, key * tiling.num_tiles + index
            if len(coords) % finer == 0 and bool(
                (torch.bincount(longer, minlength=finer) == len(coords) // finer).all()
            ):
                axes[tiling] = Axis(groups, tiling.num_tiles, len(coords) // finer)
                groups, key = finer, longer
        base = torch.argsort(key, stable=True)
        # An order of its own for each of the others.
        orders: list[Tensor] = []
        self.places: list[Place] = []
        planned: dict[Tiling, tuple[Tensor, Place]] = {}
        for tiling in tilings:
            if tiling not in planned:
                if tiling in axes:
                    planned[tiling] = base, axes[tiling]
                elif tiling.blending == "nearest":
                    index = nearest[tiling][base]
                    planned[tiling] = base[torch.argsort(index, stable=True)], _runs(index, tiling)
                else:
                    corners = [(*_sorted(index, tiling), share) for index, share in tiling.corners(coords[base])]
                    planned[tiling] = base, Blend(corners)
            order, place = planned[tiling]
            orders.append(order)
            self.places.append(place)
        self.coords = coords[orders[0]]
        self.moves = [_move(a, b) for a, b in zip([orders[0], *orders[:-1]], orders, strict=True)]
        self.back = _move(orders[-1], torch.arange(len(coords), device=coords.device))

    def enter(self, values: Float[Tensor, "batch points dim"], layer: int) -> Float[Tensor, "batch points dim"]:
        """Values in the order of the layer before (for the first layer, of `coords`), in this layer's order."""
        return moved(values, self.moves[layer])

    def leave(self, values: Float[Tensor, "batch points dim"]) -> Float[Tensor, "batch points dim"]:
        """Values in the last layer's order, in the order of the points that were given."""
        return moved(values, self.back)


class ExpertLinear(nn.Module):
    """A Linear whose weight is that of each point's tile, or a blend of them, with one bias for all (LoE eqs. 3 to 5).

    Every matrix starts from Kaiming's uniform distribution for leaky ReLU of slope 0.2, the bias from 0 (supplement A).
    """

    def __init__(self, in_features: int, out_features: int, tiling: Tiling):
        super().__init__()
        self.tiling = tiling
        self.weight = nn.Parameter(torch.empty(tiling.num_tiles, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        for matrix in self.weight.unbind():
            nn.init.kaiming_uniform_(matrix, a=0.2)

    def forward(
        self, values: Float[Tensor, "batch points inputs"], place: Place
    ) -> Float[Tensor, "batch points outputs"]:
        """The layer at points in the order of `place`, which is the `Arrangement`'s for this layer."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if torch.is_autocast_enabled(values.device.type):
            dtype = torch.get_autocast_dtype(values.device.type)
            values, weight, bias = values.to(dtype), weight.to(dtype), bias.to(dtype)
        if not isinstance(place, Blend):
            return _GroupedProduct.apply(values, weight, bias, place)
        total: Tensor = bias
        for move, runs, share in place.corners:
            part = _GroupedProduct.apply(moved(values * share[:, None].to(values.dtype), move), weight, None, runs)
            total = total + moved(part, move and (move[1], move[0]))
        return total


class _GroupedProduct(torch.autograd.Function):
    """Each part of the points with the matrix of its tile, written where it belongs: nothing is copied."""

    @staticmethod
    def forward(ctx, values, weight, bias, place):
        values = values.contiguous()
        ctx.save_for_backward(values, weight)
        ctx.place, ctx.has_bias = place, bias is not None
        out = values.new_empty(*values.shape[:2], weight.shape[1])
        for part, result, matrix in zip(place.parts(values), place.parts(out), weight.unbind(), strict=True):
            if part.numel():
                matrices = matrix.T.expand(len(part), -1, -1)
                if bias is None:
                    torch.bmm(part, matrices, out=result)
                else:
                    torch.baddbmm(bias, part, matrices, out=result)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        values, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        parts, gradients = ctx.place.parts(values), ctx.place.parts(gradient)
        to_values = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_values = torch.empty_like(values)
            for part, result, matrix in zip(gradients, ctx.place.parts(to_values), weight.unbind(), strict=True):
                if part.numel():
                    torch.bmm(part, matrix.expand(len(part), -1, -1), out=result)
        if ctx.needs_input_grad[1]:
            to_weight = torch.zeros_like(weight)
            for part, upstream, result in zip(parts, gradients, to_weight.unbind(), strict=True):
                for rows, upstream_rows in zip(part, upstream, strict=True):
                    result.addmm_(upstream_rows.T, rows)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            to_bias = gradient.sum((0, 1))
        return to_values, to_weight, to_bias, None


class _Moved(torch.autograd.Function):
    """Points in another order; the gradient returns by the inverse order, which is no scattered sum."""

    @staticmethod
    def forward(ctx, values, source, target):
        ctx.save_for_backward(target)
        return values.index_select(1, source)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (target,) = ctx.saved_tensors
        return gradient.index_select(1, target), None, None


def moved(values: Float[Tensor, "batch points dim"], move: Move) -> Float[Tensor, "batch points dim"]:
    return values if move is None else _Moved.apply(values, *move)


def _inverse(order: Int[Tensor, " points"]) -> Int[Tensor, " points"]:
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return inverse


def _move(old: Int[Tensor, " points"], new: Int[Tensor, " points"]) -> Move:
    return None if torch.equal(old, new) else (_inverse(old)[new], _inverse(new)[old])


def _runs(index: Int[Tensor, " points"], tiling: Tiling) -> Runs:
    return Runs(torch.bincount(index, minlength=tiling.num_tiles).tolist())


def _sorted(index: Int[Tensor, " points"], tiling: Tiling) -> tuple[Move, Runs]:
    order = torch.argsort(index, stable=True)
    return (order, _inverse(order)), _runs(index, tiling)
