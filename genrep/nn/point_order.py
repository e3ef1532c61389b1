"""An order of points in which a stack of expert layers costs hardly more than a stack of Linears.

An expert layer (`genrep.nn.expert_linear`) multiplies each point with the matrix of its tile. A matrix product needs the
points of a tile in one block, and every layer has different tiles; sorting the points before every layer would move all
activations every time. `PointOrder` plans orders that serve several layers, once for the points and all layers.

Take 4×4 points, numbered by rows, and two layers of 2×2 tiles. Layer 1 covers the square once with A to D; layer 2 repeats
a to d in each of these quarters:

    points           layer 1        layer 2
     0  1  2  3      A  A  B  B     a  b  a  b
     4  5  6  7      A  A  B  B     c  d  c  d
     8  9 10 11      C  C  D  D     a  b  a  b
    12 13 14 15      C  C  D  D     c  d  c  d

Sorted by the tiles of layer 1, and within these by the tiles of layer 2, the points are in an order that serves both:

    points    0  1  4  5    2  3  6  7    8  9 12 13   10 11 14 15      a permutation of the points
    layer 1   A  A  A  A    B  B  B  B    C  C  C  C    D  D  D  D      viewed as [1, 4 tiles, 4 points]
    layer 2   a  b  c  d    a  b  c  d    a  b  c  d    a  b  c  d      viewed as [4 segments, 4 tiles, 1 point]

A tile is an index on the middle axis of a strided view: nothing is moved between the layers (`EqualSegments`). Where the
points are not on a grid that the tiles divide, segments differ in length and are cut at offsets (`Segments`).

Every further layer shortens the segments, here to one point: too few rows for an efficient product. Before that happens
a new order begins, sorted by the tiles of layer 2 first. On a grid it is the old one with two axes swapped: layer 2
reads [4 segments, 4 tiles, 1] and writes [4 tiles, 1, 4 segments], both through strides, so again nothing is moved:

    points    0  2  8 10    1  3  9 11    4  6 12 14    5  7 13 15
    layer 2   a  a  a  a    b  b  b  b    c  c  c  c    d  d  d  d

Otherwise the points are gathered into the new order before its first layer. That happens once for 2^18 random points in
nine layers of 2×2 tiles.
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
"""Rows of a product (points × signals) below which segments are too short, so that a new order begins."""

MIN_ROWS_PER_LAUNCH = 2**14
"""The same for segments of unequal length on a GPU, where each is a kernel launch unless `grouped_mm` applies."""

Block = tuple[int, Tensor]
"""A tile and some of its points, viewed as `[products, rows, dim]`: a batch of products with the tile's matrix."""


class Permutation(NamedTuple):
    """A reordering of points: new point i is old point `source[i]`, old point i becomes new point `target[i]`."""

    source: Int[Tensor, " points"]
    target: Int[Tensor, " points"]

    @property
    def inverse(self) -> "Permutation":
        return Permutation(self.target, self.source)

    @classmethod
    def between(cls, old: Int[Tensor, " points"], new: Int[Tensor, " points"]) -> "Permutation | None":
        """The permutation from one order of the points to another; None if they are equal."""
        if torch.equal(old, new):  # synchronises with a GPU, as planning does in several places
            return None
        return cls(_inverse(old).index_select(0, new), _inverse(new).index_select(0, old))


def permute(
    values: Float[Tensor, "points batch dim"], permutation: Permutation | None
) -> Float[Tensor, "points batch dim"]:
    """Values of points in another order; None returns them unchanged."""
    return values if permutation is None else _Permute.apply(values, *permutation)


class _Permute(torch.autograd.Function):
    """A gather whose gradient is a gather by the inverse; autograd's would add into scattered rows, which is slower."""

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
    """The order in which one layer reads and writes its points, and where its tiles lie in it."""

    permutation: Permutation | None = None
    """From the order that the previous layer writes to the one that this layer reads; None if they are the same."""

    def to_input_order(self, values: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch dim"]:
        """From the order that the previous layer writes to the one that this layer reads."""
        return permute(values, self.permutation)

    def to_output_order(self, values: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch dim"]:
        """From the order that this layer reads to the one that it writes: for a shortcut around the layer."""
        return values


class EqualSegments(LayerOrder):
    """Segments of equal length, so that the tiles form an axis: the points viewed as `[before, tiles, after]`.

    `tiles` are the indices of the tiles that the points use. With `transposed` = t > 1 the layer begins a new order by
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
            # The signals of a point are adjacent, so they count as rows: [before, tiles, after · batch, dim].
            parts = values.view(self.before, len(self.tiles), self.after * values.shape[1], values.shape[2])
            return list(zip(self.tiles, parts.unbind(1), strict=True))
        parts = values.unflatten(0, (len(self.tiles), -1, self.transposed))
        return self._transposed_blocks(parts.transpose(2, 3))

    def _transposed_blocks(self, parts: Float[Tensor, "tiles after batch transposed dim"]) -> list[Block]:
        # A batched product has strides for its products and its rows. The rows are `transposed`; of `after` and `batch` the
        # longer becomes the axis of products, the shorter a Python loop.
        shorter = 1 if parts.shape[2] < parts.shape[1] else 0
        return [(tile, block) for tile, part in zip(self.tiles, parts, strict=True) for block in part.unbind(shorter)]

    def to_output_order(self, values: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch dim"]:
        if self.transposed == 1:
            return values
        return values.unflatten(0, (self.transposed, -1)).transpose(0, 1).flatten(0, 1)

    @functools.cached_property
    def segments(self) -> tuple[Int[Tensor, " segments"], Int[Tensor, " segments"]] | None:
        """See `Segments.segments`; None if the layer transposes, where a segment is not contiguous."""
        if self.transposed > 1:
            return None
        tiles = torch.tensor(self.tiles, device=self.device).repeat(self.before)
        return tiles, torch.arange(1, len(tiles) + 1, dtype=torch.int32, device=self.device) * self.after


class Segments(LayerOrder):
    """Consecutive segments of any length: `counts[i]` points of tile `tiles[i]`; a tile may occur several times."""

    def __init__(self, tiles: list[int], counts: list[int], device: torch.device):
        self.tiles, self.counts, self.device = tiles, counts, device

    def input_blocks(self, values: Float[Tensor, "points batch dim"]) -> list[Block]:
        parts = values.split(self.counts)
        return [(tile, part.flatten(0, 1)[None]) for tile, part in zip(self.tiles, parts, strict=True)]

    output_blocks = input_blocks

    @functools.cached_property
    def segments(self) -> tuple[Int[Tensor, " segments"], Int[Tensor, " segments"]]:
        """The tile of each segment and the number of points up to its end, int32 as `grouped_mm` requires."""
        ends = torch.tensor(self.counts, dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return torch.tensor(self.tiles, device=self.device), ends.to(self.device)


class BlendedSegments(LayerOrder):
    """Every point lies in 2^axes tiles; for each corner: the permutation that sorts by its tile, the segments, the weights."""

    def __init__(self, corners: list[tuple[Permutation, Segments, Tensor]]):
        self.corners = corners


class PointOrder:
    """The order of a set of points in each layer of a stack of expert layers.

    Values, `[points, batch, dim]` in the order of the attribute `coords`, pass through the stack and back to the original
    order like this; pointwise operations such as activations and sums may stand anywhere in between:

        for layer, layer_order in zip(layers, order.layers):
            values = layer(layer_order.to_input_order(values), layer_order)
        values = order.restore(values)

    Planning synchronises with a GPU; the plan can be reused for the same points.

    Args:
        coords: the points, in [-1, 1].
        tilings: one per layer, first to last.
        batch: signals that share the points: the rows per point.

    Attributes:
        coords: the points in the order in which the first layer reads them.
        layers: one `LayerOrder` per layer.
        back: the permutation from the last layer's order to the original one; None if they are the same.
    """

    def __init__(self, coords: Float[Tensor, "points axes"], tilings: Sequence[Tiling], batch: int = 1):
        coords = coords.detach()  # tiles are piecewise constant: there is no gradient with respect to the position
        plans, layer_plans = _share_orders(coords, tilings, batch)
        permuted = _sort(plans, len(coords), coords.device)  # the points of each shared order
        self.layers: list[LayerOrder] = []
        current, order = 0, permuted[0]
        for tiling, (number, layer) in zip(tilings, layer_plans, strict=True):
            if layer is None:
                # Blended: a point's corners lie in different tiles, so every corner is sorted separately, and back again.
                corners = tiling.corners(coords.index_select(0, order))
                self.layers.append(
                    BlendedSegments([(*_sorted_by_tile(tiles, tiling), share) for tiles, share in corners])
                )
                continue
            if number != current:  # the first layer of a new order
                transposed = _transposed(order, plans[current], plans[number], layer)
                if transposed is None:
                    # A copy, because `layer` also serves later layers of the same tiling, which do not move anything.
                    layer = copy.copy(layer)
                    layer.permutation, order = Permutation.between(order, permuted[number]), permuted[number]
                else:
                    layer, order = transposed
                current = number
            self.layers.append(layer)
        self.coords = coords.index_select(0, permuted[0])
        self.back = Permutation.between(order, torch.arange(len(coords), device=coords.device))

    def restore(self, values: Float[Tensor, "points batch dim"]) -> Float[Tensor, "points batch dim"]:
        """From the order that the last layer writes to the original order of the points."""
        return permute(values, self.back)


class SharedOrder:
    """The plan of one order shared by several layers: each layer splits the segments of the layers before it.

    Attributes:
        key: the index of every point's segment, by which this order is sorted.
        num_segments: the number of segments.
        regular: whether every layer so far has split every segment into equal parts, one per tile, as in a reshaped array.
        layers: the result for each tiling, so that a repeated tiling finds its tiles.
    """

    def __init__(self, num_points: int, batch: int, device: torch.device):
        self.num_points, self.batch = num_points, batch
        self.key = torch.zeros(num_points, dtype=torch.long, device=device)
        self.num_segments, self.regular = 1, True
        self.layers: dict[Tiling, EqualSegments | Segments] = {}

    def split(self, tiling: Tiling, index: Int[Tensor, " points"]) -> EqualSegments | Segments | None:
        """Add a layer, given the tile of every point; None if the products would have too few rows in this order."""
        if tiling in self.layers:  # later layers have split its segments further, which leaves them contiguous
            return self.layers[tiling]
        device = self.key.device
        tiles = torch.bincount(index, minlength=tiling.num_tiles).nonzero().flatten()
        if len(tiles) <= 1:  # a plain Linear, for which any order will do, or no points at all
            return EqualSegments(1, tiles.tolist() or [0], self.num_points, device)
        # Sorting by (segment, tile) splits every segment by tile and keeps the segments of earlier layers intact.
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
        min_rows = MIN_ROWS_PER_LAUNCH if key.is_cuda and not regular else MIN_ROWS
        if self.layers and per_segment * self.batch < min_rows:  # an order's first layer is accepted at any length
            return None
        if regular:
            layer: EqualSegments | Segments = EqualSegments(self.num_segments, tiles.tolist(), per_segment, device)
        else:
            layer = Segments((used % tiling.num_tiles).tolist(), counts[used].tolist(), device)
        numbers = counts.bool().cumsum(0) - 1  # renumbered without the empty segments, so that keys stay small
        self.key, self.num_segments, self.regular = numbers.index_select(0, key), num_segments, regular
        self.layers[tiling] = layer
        return layer


def _share_orders(
    coords: Float[Tensor, "points axes"], tilings: Sequence[Tiling], batch: int
) -> tuple[list[SharedOrder], list[tuple[int, EqualSegments | Segments | None]]]:
    """The shared orders, and for each layer the index of its order and its segments in it (None if it blends)."""
    exact = coords.to(float64_device(coords.device)).double()  # converted once for all tilings
    nearest = [tiling for tiling in dict.fromkeys(tilings) if tiling.blending == "nearest"]
    index = {tiling: tiling.index(exact).to(coords.device) for tiling in nearest}
    plans = [SharedOrder(len(coords), batch, coords.device)]
    layers: list[tuple[int, EqualSegments | Segments | None]] = []
    for tiling in tilings:
        # Greedy: a layer joins the current order if it can. Blended layers sort for themselves and leave it as it is.
        layer = plans[-1].split(tiling, index[tiling]) if tiling in index else None
        if tiling in index and layer is None:
            plans.append(SharedOrder(len(coords), batch, coords.device))
            layer = plans[-1].split(tiling, index[tiling])
        layers.append((len(plans) - 1, layer))
    return plans, layers


def _sort(plans: list[SharedOrder], num_points: int, device: torch.device) -> list[Int[Tensor, " points"]]:
    """The points of each shared order, sorted by its key."""
    orders: list[Tensor] = []
    order = torch.arange(num_points, device=device)
    # The last order is sorted first, and sorting is stable: points with equal keys keep the order that they have in the
    # next plan. So wherever possible the next order is the previous one with its axes swapped.
    for plan in reversed(plans):
        if plan.num_segments > 1:
            key = plan.key.index_select(0, order).int()  # int32 sorts faster
            order = order.index_select(0, torch.argsort(key, stable=True))
        orders.insert(0, order)
    return orders


def _transposed(
    order: Int[Tensor, " points"], old: SharedOrder, new: SharedOrder, layer: EqualSegments | Segments
) -> tuple[EqualSegments, Tensor] | None:
    """The first layer of a new order and that order, if it is the old one with the axis of segments moved last."""
    if not old.regular or not isinstance(layer, EqualSegments) or len(order) % (old.num_segments * len(layer.tiles)):
        return None
    order = order.view(old.num_segments, -1).T.flatten()
    key = new.key.index_select(0, order)
    # The transposed points are in the new order exactly if its key does not fall anywhere.
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
