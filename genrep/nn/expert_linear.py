"""The expert linear layer of Levels-of-Experts, and the order of points in which it costs what a Linear costs.

`ExpertLinear` multiplies every point with the weight matrix of its tile. Points of one tile must meet one product, so they
are brought together: an `Arrangement` plans, once for the points and for all layers, an order of the points for each
layer. Points sorted by the tiles of one layer, and among these by the tiles of the next, are in an order that serves both:
a tile of the second layer is then many short segments. On a regular grid these are an axis of a reshaped array. When the
segments get too short for a product another order begins; on a grid it is the old one with its axes swapped, which the
first layer of the new order brings about by reading with strides. So nothing is moved between the layers on grids that the
tiles divide, and little elsewhere.
"""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from genrep.devices import float64_device
from genrep.nn.tiling import Tiling

ROWS = 256
"""Rows below which segments are too short for a product and a new order begins."""

ROWS_OF_LAUNCHES = 2**14
"""The same where every segment is a launch of its own: segments of different length, on an accelerator."""

SMALL = 2**14
"""Numbers of a weight matrix up to which the parts of its gradient are computed together and then summed."""

Part = tuple[int, Tensor]
"""A tile, and some of its points `[products, rows, dim]`, a view."""

Move = tuple[Tensor, Tensor] | None
"""Where values come from, and where they go to when gradients return; None where everything stays."""


class Place:
    """Where a layer's tiles lie among the points: `layer(place.enter(values), place)`."""

    move: Move = None

    def enter(self, values: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch dim"]:
        """Values as the layer before left them, in the order that this layer reads."""
        return moved(values, self.move)

    def beside(self, values: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch dim"]:
        """Values in the order that the layer reads, in the one that it writes: for a shortcut around it."""
        return values


class Axis(Place):
    """Tiles that are an axis: `[before, tiles, after]` is the points' axis, reshaped.

    `tiles` are the numbers of those that the points use. With `turn` the points are read as `[turn, tiles, after / turn]` and
    written as `[tiles, after / turn, turn]`: what an earlier group of layers sorted by first is sorted by last from here on.
    """

    def __init__(self, before: int, tiles: list[int], after: int, turn: int = 1):
        self.before, self.tiles, self.after, self.turn = before, tiles, after, turn

    def read(self, values: Float[Tensor, "points batch dim"]) -> list[Part]:
        if self.turn == 1:
            return self.written(values)
        parts = values.unflatten(0, (self.turn, len(self.tiles), -1))
        return self._turned(parts.permute(1, 2, 3, 0, 4))

    def written(self, values: Float[Tensor, "points batch dim"]) -> list[Part]:
        if self.turn == 1:
            parts = values.view(self.before, len(self.tiles), self.after * values.shape[1], values.shape[2])
            return list(zip(self.tiles, parts.unbind(1), strict=True))
        parts = values.unflatten(0, (len(self.tiles), -1, self.turn))
        return self._turned(parts.transpose(2, 3))

    def _turned(self, parts: Float[Tensor, "tiles after batch turn dim"]) -> list[Part]:
        """Products of `turn` rows; strides can say only one of the other two axes at once, the longer one."""
        shorter = 1 if parts.shape[2] < parts.shape[1] else 0
        return [(tile, one) for tile, part in zip(self.tiles, parts, strict=True) for one in part.unbind(shorter)]

    def beside(self, values: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch dim"]:
        return values if self.turn == 1 else values.unflatten(0, (self.turn, -1)).transpose(0, 1).flatten(0, 1)


class Runs(Place):
    """Tiles that are segments: `counts` points of each of `tiles`, one after another; a tile may come again."""

    def __init__(self, tiles: list[int], counts: list[int]):
        self.tiles, self.counts = tiles, counts

    def read(self, values: Float[Tensor, "points batch dim"]) -> list[Part]:
        return [
            (tile, part.flatten(0, 1)[None]) for tile, part in zip(self.tiles, values.split(self.counts), strict=True)
        ]

    written = read


class Blend(Place):
    """2^axes tiles that are blended: for each corner, the way to points sorted by it, its runs, and its weights."""

    def __init__(self, corners: list[tuple[Move, Runs, Tensor]]):
        self.corners = corners


class Group:
    """Layers that share an order: each splits the segments that the ones before it have left.

    Attributes:
        key: of every point, the number of its segment.
        regular: so far every layer has cut every segment into equal parts, one for each of its tiles.
    """

    def __init__(self, num_points: int, batch: int, device: torch.device):
        self.num_points, self.batch = num_points, batch
        self.key = torch.zeros(num_points, dtype=torch.long, device=device)
        self.segments, self.regular = 1, True
        self.places: dict[Tiling, Axis | Runs] = {}

    def split(self, tiling: Tiling, index: Int[Tensor, " points"]) -> Axis | Runs | None:
        """The place of a layer in this order, given every point's tile; None if the products would have too few rows."""
        if tiling in self.places:
            return self.places[tiling]
        tiles = torch.bincount(index, minlength=tiling.num_tiles).nonzero().flatten()
        if len(tiles) <= 1:  # a plain linear layer, in any order, or no points
            return Axis(1, tiles.tolist() or [0], self.num_points)
        key = self.key * tiling.num_tiles + index
        counts = torch.bincount(key, minlength=self.segments * tiling.num_tiles)
        used = counts.nonzero().flatten()
        segments = len(used)
        per_segment = self.num_points // segments
        regular = self.regular and segments == self.segments * len(tiles) and bool((counts[used] == per_segment).all())
        needed = ROWS_OF_LAUNCHES if key.is_cuda and not regular else ROWS
        if self.places and per_segment * self.batch < needed:
            return None
        if regular:
            place: Axis | Runs = Axis(self.segments, tiles.tolist(), per_segment)
        else:
            place = Runs((used % tiling.num_tiles).tolist(), counts[used].tolist())
        self.key, self.segments, self.regular = (counts.bool().cumsum(0) - 1).index_select(0, key), segments, regular
        self.places[tiling] = place
        return place


class Arrangement:
    """The order of some points in each of a stack of expert layers.

    Values that start in the order of `coords` walk through the layers by `layer(place.enter(values), place)` with the
    `places`, one for each layer, and come back to the order that was given by `leave(values)`. What is computed at every
    point, like activations and sums, may be done anywhere on the way. Values are `[points, batch, dim]`: the points of a
    tile are then whole blocks.

    Args:
        coords: the points, in [-1, 1].
        tilings: of every layer, first to last.
        batch: signals that share the points, so many rows a point has.
    """

    def __init__(self, coords: Float[Tensor, "points axes"], tilings: Sequence[Tiling], batch: int = 1):
        coords = coords.detach()
        exact = coords.to(float64_device(coords.device)).double()
        num_points, device = len(coords), coords.device
        nearest = [tiling for tiling in dict.fromkeys(tilings) if tiling.blending == "nearest"]
        index = {tiling: tiling.index(exact).to(device) for tiling in nearest}
        groups = [Group(num_points, batch, device)]
        planned: list[tuple[int, Axis | Runs | None]] = []
        for tiling in tilings:
            place = groups[-1].split(tiling, index[tiling]) if tiling in index else None
            if tiling in index and place is None:
                groups.append(Group(num_points, batch, device))
                place = groups[-1].split(tiling, index[tiling])
            planned.append((len(groups) - 1, place))

        orders: list[Tensor] = []  # of the last group first: an order is sorted by the keys of later groups as well
        order = torch.arange(num_points, device=device)
        for group in reversed(groups):
            if group.segments > 1:
                key = group.key.index_select(0, order).int()
                order = order.index_select(0, torch.argsort(key, stable=True))
            orders.insert(0, order)

        self.places: list[Place] = []
        now, order = 0, orders[0]
        for (number, place), tiling in zip(planned, tilings, strict=True):
            if place is None:
                corners = tiling.corners(coords.index_select(0, order))
                self.places.append(Blend([(*_sorted(tiles, tiling), share) for tiles, share in corners]))
                continue
            if number != now:
                turned = _turned(order, groups[now], groups[number], place)
                if turned is None:
                    place = copy.copy(place)
                    place.move, order = _move(order, orders[number]), orders[number]
                else:
                    place, order = turned
                now = number
            self.places.append(place)
        self.coords = coords.index_select(0, orders[0])
        self.back = _move(order, torch.arange(num_points, device=device))

    def leave(self, values: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch dim"]:
        """Values as the last layer left them, in the order of the points that were given."""
        return moved(values, self.back)


def _turned(order: Int[Tensor, " points"], old: Group, new: Group, place: Axis | Runs) -> tuple[Axis, Tensor] | None:
    """The first place of a new group and its order, if that is the old order with its segments' axis put last."""
    if not (old.regular and isinstance(place, Axis)) or len(order) % (old.segments * len(place.tiles)):
        return None
    order = order.view(old.segments, -1).T.flatten()
    key = new.key.index_select(0, order)
    return (Axis(1, place.tiles, place.after, old.segments), order) if bool((key[1:] >= key[:-1]).all()) else None


class ExpertLinear(nn.Module):
    """A Linear whose weight is that of each point's tile, or a blend of them, with one bias for all (LoE eqs. 3 to 5).

    Every matrix starts from Kaiming's uniform distribution for leaky ReLU of slope 0.2, the bias from 0 (supplement A). With
    `start="equal"` all matrices start from the same draw, so that the layer is at first a Linear.
    """

    def __init__(self, in_features: int, out_features: int, tiling: Tiling, start: str = "apart"):
        super().__init__()
        self.tiling = tiling
        self.weight = nn.Parameter(torch.empty(tiling.num_tiles, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        for matrix in self.weight.unbind():
            nn.init.kaiming_uniform_(matrix, a=0.2)
        if start == "equal":
            with torch.no_grad():
                self.weight.copy_(self.weight[:1].clone())

    def forward(
        self, values: Float[Tensor, "points batch inputs"], place: Place
    ) -> Float[Tensor, "points batch outputs"]:
        """The layer at points in the order of `place`, which is the `Arrangement`'s for this layer."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if torch.is_autocast_enabled(values.device.type) and values.dtype != torch.float64:
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
        for (tile, part), (_, result) in zip(place.read(values), place.written(out), strict=True):
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
            for (tile, upstream), (_, result) in zip(place.written(gradient), place.read(to_values), strict=True):
                torch.bmm(upstream, weight[tile].expand(len(upstream), -1, -1), out=result)
        if ctx.needs_input_grad[1]:
            to_weight = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
            for (tile, part), (_, upstream) in zip(place.read(values), place.written(gradient), strict=True):
                result = to_weight[tile]
                if part.is_cuda or (len(part) > 1 and result.numel() <= SMALL):
                    result += torch.bmm(upstream.transpose(1, 2), part).sum(0, dtype=result.dtype)
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
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def _move(old: Int[Tensor, " points"], new: Int[Tensor, " points"]) -> Move:
    return None if torch.equal(old, new) else (_inverse(old).index_select(0, new), _inverse(new).index_select(0, old))


def _runs(index: Int[Tensor, " points"], tiling: Tiling) -> Runs:
    counts = torch.bincount(index, minlength=tiling.num_tiles)
    tiles = counts.nonzero().flatten()
    return Runs(tiles.tolist(), counts[tiles].tolist())


def _sorted(index: Int[Tensor, " points"], tiling: Tiling) -> tuple[Move, Runs]:
    order = torch.argsort(index, stable=True)
    return (order, _inverse(order)), _runs(index, tiling)
