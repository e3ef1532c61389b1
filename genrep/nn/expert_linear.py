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

ROWS = 64
"""Rows that a product should have at least: below it a matrix multiplication is slower than moving the points."""


SMALL = 2**14
"""Numbers of a weight matrix up to which the parts of its gradient are computed together and then summed."""


class Axis:
    """Where a layer's tiles lie among ordered points: `[before, tiles, after]` is the points' axis, reshaped.

    `tiles` are the numbers of those that the points use.
    """

    def __init__(self, before: int, tiles: list[int], after: int):
        self.before, self.tiles, self.after = before, tiles, after

    def parts(self, values: Float[Tensor, "points batch dim"]) -> list[Tensor]:
        """The points of every tile, views `[products, rows, dim]` of `values`."""
        rows = self.after * values.shape[1]
        return list(values.view(self.before, len(self.tiles), rows, values.shape[2]).unbind(1))


class Runs:
    """Where a layer's tiles lie among points sorted by tile: `counts` points of each of `tiles`, one after another."""

    def __init__(self, tiles: list[int], counts: list[int]):
        self.tiles, self.counts = tiles, counts

    def parts(self, values: Float[Tensor, "points batch dim"]) -> list[Tensor]:
        """The points of every tile, views `[1, rows, dim]` of `values`."""
        return [part.flatten(0, 1)[None] for part in values.split(self.counts)]


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
    order of the last layer entered. Values are `[points, batch, dim]`: the points of a tile are then whole blocks.

    Args:
        coords: the points, in [-1, 1].
        tilings: of every layer, first to last.
        batch: signals that share the points, so many rows a point has.
    """

    def __init__(self, coords: Float[Tensor, "points axes"], tilings: Sequence[Tiling], batch: int = 1):
        coords = coords.detach()
        nearest = {tiling: tiling.index(coords) for tiling in dict.fromkeys(tilings) if tiling.blending == "nearest"}
        shared = _shared_orders(nearest, len(coords), batch, coords.device)
        base = next(iter(shared.values()))[0] if shared else torch.arange(len(coords), device=coords.device)
        planned: dict[Tiling, tuple[Tensor, Place]] = {}
        for tiling in dict.fromkeys(tilings):
            if tiling in shared:
                planned[tiling] = shared[tiling]
            elif tiling.blending == "nearest":
                index = nearest[tiling][base]
                planned[tiling] = base[torch.argsort(index, stable=True)], _runs(index, tiling)
            else:
                corners = [(*_sorted(index, tiling), share) for index, share in tiling.corners(coords[base])]
                planned[tiling] = base, Blend(corners)
        orders = [planned[tiling][0] for tiling in tilings]
        self.places: list[Place] = [planned[tiling][1] for tiling in tilings]
        self.coords = coords[orders[0]]
        self.moves = [_move(a, b) for a, b in zip([orders[0], *orders[:-1]], orders, strict=True)]
        self.back = _move(orders[-1], torch.arange(len(coords), device=coords.device))

    def enter(self, values: Float[Tensor, "points batch dim"], layer: int) -> Float[Tensor, "points batch dim"]:
        """Values in the order of the layer before (for the first layer, of `coords`), in this layer's order."""
        return moved(values, self.moves[layer])

    def leave(self, values: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch dim"]:
        """Values in the last layer's order, in the order of the points that were given."""
        return moved(values, self.back)


def _shared_orders(
    nearest: "dict[Tiling, Tensor]", num_points: int, batch: int, device: torch.device
) -> "dict[Tiling, tuple[Tensor, Axis]]":
    """An order for as many layers in a row as possible, then another: each layer splits what is left into equal parts.

    On a grid of 512×512 with tiles of 2×2, quad tree: six layers share an order, then the next three. A layer that cuts
    its points into unequal parts has none.
    """
    found: dict[Tiling, tuple[Tensor, Axis]] = {}
    open_group: dict[Tiling, Axis] = {}
    groups = 1
    key: Tensor | None = None

    def close() -> None:
        if open_group:
            order = torch.arange(num_points, device=device) if key is None else torch.argsort(key, stable=True)
            found.update({tiling: (order, axis) for tiling, axis in open_group.items()})
            open_group.clear()

    for tiling, index in nearest.items():
        counts = torch.bincount(index, minlength=tiling.num_tiles)
        tiles = counts.nonzero().flatten()
        if len(tiles) == 1:  # a plain linear layer, in any order
            open_group[tiling] = Axis(1, tiles.tolist(), num_points)
            continue
        digit = counts.bool().cumsum(0)[index] - 1  # the tile's place among those that are used
        for start_anew in (False, True):
            if start_anew:
                close()
                groups, key = 1, None
            finer = groups * len(tiles)
            longer = digit if key is None else key * len(tiles) + digit
            rows = num_points // finer * batch
            if num_points % finer or (rows < ROWS and groups > 1):
                continue
            if bool((torch.bincount(longer, minlength=finer) == num_points // finer).all()):
                open_group[tiling] = Axis(groups, tiles.tolist(), num_points // finer)
                groups, key = finer, longer
                break
    close()
    return found


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
        self, values: Float[Tensor, "points batch inputs"], place: Place
    ) -> Float[Tensor, "points batch outputs"]:
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
            part = _GroupedProduct.apply(
                moved(values * share[:, None, None].to(values.dtype), move), weight, None, runs
            )
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
        for tile, part, result in zip(place.tiles, place.parts(values), place.parts(out), strict=True):
            matrices = weight[tile].T.expand(len(part), -1, -1)
            if bias is None:
                torch.bmm(part, matrices, out=result)
            else:
                torch.baddbmm(bias, part, matrices, out=result)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        values, weight = ctx.saved_tensors
        gradient, place = gradient.contiguous(), ctx.place
        to_values = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_values = torch.empty_like(values)
            for tile, upstream, result in zip(place.tiles, place.parts(gradient), place.parts(to_values), strict=True):
                torch.bmm(upstream, weight[tile].expand(len(upstream), -1, -1), out=result)
        if ctx.needs_input_grad[1]:
            to_weight = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
            for tile, part, upstream in zip(place.tiles, place.parts(values), place.parts(gradient), strict=True):
                result = to_weight[tile]
                if result.numel() <= SMALL or part.is_cuda:
                    torch.sum(torch.bmm(upstream.transpose(1, 2), part), dim=0, dtype=result.dtype, out=result)
                    continue
                for rows, upstream_rows in zip(part, upstream, strict=True):
                    result.addmm_(upstream_rows.T.to(result.dtype), rows.to(result.dtype))
            to_weight = to_weight.to(weight.dtype)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            to_bias = gradient.sum((0, 1))
        return to_values, to_weight, to_bias, None


class _Moved(torch.autograd.Function):
    """Points in another order; the gradient returns by the inverse order, which is no scattered sum."""

    @staticmethod
    def forward(ctx, values, source, target):
        ctx.save_for_backward(target)
        return values.index_select(0, source)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (target,) = ctx.saved_tensors
        return gradient.index_select(0, target), None, None


def moved(values: Float[Tensor, "points batch dim"], move: Move) -> Float[Tensor, "points batch dim"]:
    return values if move is None else _Moved.apply(values, *move)


def _inverse(order: Int[Tensor, " points"]) -> Int[Tensor, " points"]:
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return inverse


def _move(old: Int[Tensor, " points"], new: Int[Tensor, " points"]) -> Move:
    return None if torch.equal(old, new) else (_inverse(old)[new], _inverse(new)[old])


def _runs(index: Int[Tensor, " points"], tiling: Tiling) -> Runs:
    counts = torch.bincount(index, minlength=tiling.num_tiles)
    tiles = counts.nonzero().flatten()
    return Runs(tiles.tolist(), counts[tiles].tolist())


def _sorted(index: Int[Tensor, " points"], tiling: Tiling) -> tuple[Move, Runs]:
    order = torch.argsort(index, stable=True)
    return (order, _inverse(order)), _runs(index, tiling)
