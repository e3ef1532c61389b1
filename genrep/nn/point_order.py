"""The order of points in which a stack of expert layers costs hardly more than a stack of Linears.

An expert layer (`genrep.nn.expert_linear`) multiplies each point with the matrix of its tile. A matrix product wants the
points of a tile as one block, and every layer has tiles of its own; to sort the points before every layer would move all
activations every time. `PointOrder` plans, once for the points and for all layers, orders that serve several layers.

Take 4×4 points, numbered by rows, and two layers of 2×2 tiles. Layer 1 covers the square with A to D once; layer 2 has
a to d in each of these quarters:

    points           layer 1        layer 2
     0  1  2  3      A  A  B  B     a  b  a  b
     4  5  6  7      A  A  B  B     c  d  c  d
     8  9 10 11      C  C  D  D     a  b  a  b
    12 13 14 15      C  C  D  D     c  d  c  d

Sorted by the tiles of layer 1, and among these by the tiles of layer 2, the points are in an order that serves both:

    points    0  1  4  5    2  3  6  7    8  9 12 13   10 11 14 15      a permutation of the points
    layer 1   A  A  A  A    B  B  B  B    C  C  C  C    D  D  D  D      viewed as [1, 4 tiles, 4 points]
    layer 2   a  b  c  d    a  b  c  d    a  b  c  d    a  b  c  d      viewed as [4 segments, 4 tiles, 1 point]

A tile is an index on the middle axis of a view with strides: nothing is moved between the layers (`EqualSegments`). Where
points are not on a grid that the tiles divide, segments differ in length and are cut at offsets (`Segments`).

Every further layer shortens the segments, here to one point: too few rows for an efficient product. Before that happens
another order begins, sorted by the tiles of layer 2 first. On a grid it is the old one with two axes swapped: layer 2
reads [4 segments, 4 tiles, 1] and writes [4 tiles, 1, 4 segments], with strides, so again nothing is moved:

    points    0  2  8 10    1  3  9 11    4  6 12 14    5  7 13 15
    layer 2   a  a  a  a    b  b  b  b    c  c  c  c    d  d  d  d

Elsewhere the points are gathered into the new order before its first layer; 2^18 random points in nine layers of 2×2 tiles
are gathered once.
"""

import copy
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrep.devices import float64_device
from genrep.nn.tiling import Tiling

MIN_ROWS = 256
"""Rows of a product (points × signals) below which segments count as too short, and a new order begins."""

MIN_ROWS_PER_LAUNCH = 2**14
"""The same for segments of different length on a GPU, each of which is a kernel launch where `grouped_mm` cannot be used."""

Block = tuple[int, Tensor]
"""A tile, and some of its points as a view `[products, rows, dim]`: so many products of as many rows with its matrix."""


class Permutation(NamedTuple):
    """Another order of the points: point i comes from `source[i]`; point i went to `target[i]`, which is the inverse."""

    source: Int[Tensor, " points"]
    target: Int[Tensor, " points"]

    @property
    def inverse(self) -> "Permutation":
        return Permutation(self.target, self.source)

    @classmethod
    def between(cls, old: Int[Tensor, " points"], new: Int[Tensor, " points"]) -> "Permutation | None":
        """From one order of the points to another; None if they are equal."""
        if torch.equal(old, new):
            return None
        return cls(_inverse(old).index_select(0, new), _inverse(new).index_select(0, old))


def permute(
    values: Float[Tensor, "points batch dim"], permutation: Permutation | None
) -> Float[Tensor, "points batch dim"]:
    """Values of points in another order; None leaves them as they are."""
    return values if permutation is None else _Permute.apply(values, *permutation)


class _Permute(torch.autograd.Function):
    """A gather whose gradient is a gather by the inverse: autograd's own would add into scattered rows, which is slower."""

    @staticmethod
    def forward(ctx, values, source, target):
        ctx.save_for_backward(target)
        return values.index_select(0, source)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (target,) = ctx.saved_tensors
        return gradient.index_select(0, target), None, None


class LayerOrder:
    """In which order one layer reads and writes its points, and where its tiles lie in it."""

    permutation: Permutation | None = None
    """From the order that the layer before wrote to the one that this layer reads; None if they are one."""

    def to_input_order(self, values: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch dim"]:
        """Values as the layer before wrote them, in the order that this layer reads."""
        return permute(values, self.permutation)

    def to_output_order(self, values: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch dim"]:
        """Values in the order that this layer reads, in the one that it writes: for a shortcut around the layer."""
        return values


class EqualSegments(LayerOrder):
    """Segments of equal length, so that the tiles are an axis: the points viewed as `[before, tiles, after]`.

    `tiles` are the numbers of the tiles that the points use. With `transposed` = t above 1 the layer begins a new order by
    swapping axes: it reads the points as `[t, tiles, after / t]` and writes them as `[tiles, after / t, t]`, where t is the
    number of segments in the old order (and `before` is 1).
    """

    def __init__(self, before: int, tiles: list[int], after: int, device: torch.device, transposed: int = 1):
        self.before, self.tiles, self.after, self.device, self.transposed = before, tiles, after, device, transposed

    def input_blocks(self, values: Float[Tensor, "points batch dim"]) -> list[Block]:
        if self.transposed == 1:
            return self.output_blocks(values)
        parts = values.unflatten(0, (self.transposed, len(self.tiles), -1))
        return self._transposed_blocks(parts.permute(1, 2, 3, 0, 4))

    def output_blocks(self, values: Float[Tensor, "points batch dim"]) -> list[Block]:
        if self.transposed == 1:
            parts = values.view(self.before, len(self.tiles), self.after * values.shape[1], values.shape[2])
            return list(zip(self.tiles, parts.unbind(1), strict=True))
        parts = values.unflatten(0, (len(self.tiles), -1, self.transposed))
        return self._transposed_blocks(parts.transpose(2, 3))

    def _transposed_blocks(self, parts: Float[Tensor, "tiles after batch transposed dim"]) -> list[Block]:
        # The strides of [products, rows, dim] can step through one of `after` and `batch`, beside the rows; the other one is
        # a loop. Step through the longer.
        shorter = 1 if parts.shape[2] < parts.shape[1] else 0
        return [(tile, block) for tile, part in zip(self.tiles, parts, strict=True) for block in part.unbind(shorter)]

    def to_output_order(self, values: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch dim"]:
        if self.transposed == 1:
            return values
        return values.unflatten(0, (self.transposed, -1)).transpose(0, 1).flatten(0, 1)

    @functools.cached_property
    def segments(self) -> tuple[Int[Tensor, " segments"], Int[Tensor, " segments"]] | None:
        """See `Segments.segments`; None if the layer transposes, which is no product of whole segments."""
        if self.transposed > 1:
            return None
        tiles = torch.tensor(self.tiles, device=self.device).repeat(self.before)
        return tiles, torch.arange(1, len(tiles) + 1, dtype=torch.int32, device=self.device) * self.after


class Segments(LayerOrder):
    """Segments of any length, one after another: `counts` points of each of `tiles`; a tile may come again."""

    def __init__(self, tiles: list[int], counts: list[int], device: torch.device):
        self.tiles, self.counts, self.device = tiles, counts, device

    def input_blocks(self, values: Float[Tensor, "points batch dim"]) -> list[Block]:
        parts = values.split(self.counts)
        return [(tile, part.flatten(0, 1)[None]) for tile, part in zip(self.tiles, parts, strict=True)]

    output_blocks = input_blocks

    @functools.cached_property
    def segments(self) -> tuple[Int[Tensor, " segments"], Int[Tensor, " segments"]]:
        """The tile of each segment, and its offset: int32, the number of points up to its end, as `grouped_mm` wants it."""
        ends = torch.tensor(self.counts, dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return torch.tensor(self.tiles, device=self.device), ends.to(self.device)


class BlendedSegments(LayerOrder):
    """Every point in 2^axes tiles: for each corner, the permutation to points sorted by it, its segments, its weights."""

    def __init__(self, corners: list[tuple[Permutation, Segments, Tensor]]):
        self.corners = corners


class PointOrder:
    """The order of some points in each of a stack of expert layers.

    Values that start in the order of `coords` pass through the layers by
    `layer(layer_order.to_input_order(values), layer_order)` with the `layers`, one for each layer, and come back to the
    order of the given points by `restore(values)`. What is computed at every point by itself, like activations and sums,
    may be done anywhere between. Values are `[points, batch, dim]`: the rows of a point are then together.

    Planning looks at numbers, for which a GPU has to be waited for; a plan can be used again for the same points.

    Args:
        coords: the points, in [-1, 1].
        tilings: of every layer, first to last.
        batch: signals that share the points, so many rows a point has.

    Attributes:
        coords: the points in the order in which the first layer reads them.
        layers: a `LayerOrder` for each layer.
        back: the permutation from the last layer's order to that of the given points.
    """

    def __init__(self, coords: Float[Tensor, "points axes"], tilings: Sequence[Tiling], batch: int = 1):
        coords = coords.detach()
        plans, layer_plans = _share_orders(coords, tilings, batch)
        permuted = _sort(plans, len(coords), coords.device)  # the points of each shared order
        self.layers: list[LayerOrder] = []
        current, order = 0, permuted[0]
        for tiling, (number, layer) in zip(tilings, layer_plans, strict=True):
            if (
                layer is None
            ):  # blended: each corner has a sorting of its own, from the order that is there and back to it
                corners = tiling.corners(coords.index_select(0, order))
                self.layers.append(
                    BlendedSegments([(*_sorted_by_tile(tiles, tiling), share) for tiles, share in corners])
                )
                continue
            if number != current:  # the first layer of a new order
                transposed = _transposed(order, plans[current], plans[number], layer)
                if transposed is None:
                    layer = copy.copy(layer)  # the same tiling may come again in this order, where nothing is moved
                    layer.permutation, order = Permutation.between(order, permuted[number]), permuted[number]
                else:
                    layer, order = transposed
                current = number
            self.layers.append(layer)
        self.coords = coords.index_select(0, permuted[0])
        self.back = Permutation.between(order, torch.arange(len(coords), device=coords.device))

    def restore(self, values: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch dim"]:
        """Values as the last layer wrote them, in the order of the points that were given."""
        return permute(values, self.back)


class SharedOrder:
    """The plan of one order, which several layers share: each cuts the segments that those before it have left.

    Attributes:
        key: of every point, the number of its segment, by which this order is sorted.
        num_segments: how many there are.
        regular: so far every layer has cut every segment into equal parts, one for each of its tiles: a reshaped array.
        layers: what each tiling became, so that one that comes again finds its tiles.
    """

    def __init__(self, num_points: int, batch: int, device: torch.device):
        self.num_points, self.batch = num_points, batch
        self.key = torch.zeros(num_points, dtype=torch.long, device=device)
        self.num_segments, self.regular = 1, True
        self.layers: dict[Tiling, EqualSegments | Segments] = {}

    def split(self, tiling: Tiling, index: Int[Tensor, " points"]) -> EqualSegments | Segments | None:
        """Add a layer, given every point's tile; None if the products would have too few rows in this order."""
        if tiling in self.layers:
            return self.layers[tiling]
        device = self.key.device
        tiles = torch.bincount(index, minlength=tiling.num_tiles).nonzero().flatten()
        if len(tiles) <= 1:  # a plain linear layer, in any order, or no points
            return EqualSegments(1, tiles.tolist() or [0], self.num_points, device)
        key = self.key * tiling.num_tiles + index
        counts = torch.bincount(key, minlength=self.num_segments * tiling.num_tiles)
        used = counts.nonzero().flatten()
        num_segments = len(used)
        per_segment = self.num_points // num_segments
        regular = (
            self.regular
            and num_segments == self.num_segments * len(tiles)
            and bool((counts[used] == per_segment).all())
        )
        needed = MIN_ROWS_PER_LAUNCH if key.is_cuda and not regular else MIN_ROWS
        if self.layers and per_segment * self.batch < needed:
            return None
        if regular:
            layer: EqualSegments | Segments = EqualSegments(self.num_segments, tiles.tolist(), per_segment, device)
        else:
            layer = Segments((used % tiling.num_tiles).tolist(), counts[used].tolist(), device)
        numbers = counts.bool().cumsum(0) - 1  # segments are counted without the empty ones
        self.key, self.num_segments, self.regular = numbers.index_select(0, key), num_segments, regular
        self.layers[tiling] = layer
        return layer


def _share_orders(
    coords: Float[Tensor, "points axes"], tilings: Sequence[Tiling], batch: int
) -> tuple[list[SharedOrder], list[tuple[int, EqualSegments | Segments | None]]]:
    """The shared orders, and for each layer the number of its order and its segments there; None if it blends."""
    exact = coords.to(float64_device(coords.device)).double()  # once for all tilings
    nearest = [tiling for tiling in dict.fromkeys(tilings) if tiling.blending == "nearest"]
    index = {tiling: tiling.index(exact).to(coords.device) for tiling in nearest}
    plans = [SharedOrder(len(coords), batch, coords.device)]
    layers: list[tuple[int, EqualSegments | Segments | None]] = []
    for tiling in tilings:
        layer = plans[-1].split(tiling, index[tiling]) if tiling in index else None
        if tiling in index and layer is None:
            plans.append(SharedOrder(len(coords), batch, coords.device))
            layer = plans[-1].split(tiling, index[tiling])
        layers.append((len(plans) - 1, layer))
    return plans, layers


def _sort(plans: list[SharedOrder], num_points: int, device: torch.device) -> list[Int[Tensor, " points"]]:
    """The points of each shared order, sorted by its key.

    Among equal keys a point of an order keeps its place in the next one: the last is sorted first, and stably. So the
    next order is the old one with its axes swapped wherever that is possible.
    """
    orders: list[Tensor] = []
    order = torch.arange(num_points, device=device)
    for plan in reversed(plans):
        if plan.num_segments > 1:
            key = plan.key.index_select(0, order).int()  # int32 is sorted faster
            order = order.index_select(0, torch.argsort(key, stable=True))
        orders.insert(0, order)
    return orders


def _transposed(
    order: Int[Tensor, " points"], old: SharedOrder, new: SharedOrder, layer: EqualSegments | Segments
) -> tuple[EqualSegments, Tensor] | None:
    """The first layer of a new order, and that order, if it is the old one with its segments' axis put last."""
    if not old.regular or not isinstance(layer, EqualSegments) or len(order) % (old.num_segments * len(layer.tiles)):
        return None
    order = order.view(old.num_segments, -1).T.flatten()
    key = new.key.index_select(0, order)
    if not bool((key[1:] >= key[:-1]).all()):
        return None
    return EqualSegments(1, layer.tiles, layer.after, layer.device, transposed=old.num_segments), order


def _sorted_by_tile(index: Int[Tensor, " points"], tiling: Tiling) -> tuple[Permutation, Segments]:
    order = torch.argsort(index, stable=True)
    counts = torch.bincount(index, minlength=tiling.num_tiles)
    tiles = counts.nonzero().flatten()
    return Permutation(order, _inverse(order)), Segments(tiles.tolist(), counts[tiles].tolist(), index.device)


def _inverse(order: Int[Tensor, " points"]) -> Int[Tensor, " points"]:
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
