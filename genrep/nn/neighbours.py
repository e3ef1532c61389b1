"""Exact nearest neighbours in bounded memory, for clouds of a few dozen to a million points with any number of axes."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genrep.coords import Coords, as_points

STEPS = 1024
"""Squared distances are compared in steps of 1 / 1024. On a grid of whole numbers, smaller differences are rounding."""

FAR = 2**40
"""Squared distance, in these steps, of points that are not present."""

FEW = 512
"""Largest number of points for which all distances are computed; larger clouds are searched with a tree."""

LEAF = 16
"""Most points in a leaf of the tree, or four times the neighbours if that is more."""

WORK = 2**20
"""Number of distances held in memory at a time."""


class NearestPoints:
    """Finds the points of clouds `[B, K, axes]` that are nearest to given coordinates.

    Ties are broken by the points' coordinates, the first axis first, so the order of a cloud's points does not matter.
    Squared distances that are equal after rounding to 1 / `STEPS` are ties, so floating-point rounding does not matter for
    coordinates that are whole numbers or fractions such as 1/4. Points with coordinates that are not finite come last.

    Up to `FEW` points, all distances are computed. Larger clouds are searched with a balanced tree of boxes: a first leaf
    near the coordinate bounds the distance, and only leaves within that bound are searched. Both find the same points.

    Args:
        points: `[B, K, axes]`, in the unit of the distances, such as pixels.
        count: number of points to find.
        mask: `[B, K]`, False for points that are not present; every cloud must have at least `count` that are.
    """

    def __init__(
        self, points: Float[Tensor, "batch num axes"], count: int, mask: Bool[Tensor, "batch num"] | None = None
    ):
        self.count = count
        points = points.detach().float()
        present = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device) if mask is None else mask
        keys = torch.where(present[..., None], points, torch.inf).nan_to_num(nan=torch.inf, posinf=torch.inf)
        order = torch.arange(points.shape[1], device=points.device).expand(points.shape[:2])
        # stable sorts from the last axis to the first give the lexicographic order
        for axis in reversed(range(points.shape[2])):
            column = keys[..., axis].gather(1, order)
            order = order.gather(1, column.argsort(dim=1, stable=True))
        self.order, self.points = order, keys.gather(1, order[..., None].expand_as(keys))
        self.trees = [Tree(cloud, count) for cloud in self.points] if points.shape[1] > FEW else None

    def __call__(self, coords: Coords) -> Int[Tensor, "batch queries count"]:
        """Indices of the nearest points, nearest first. Coordinates are `[B, N, axes]`, or `[N, axes]` for the whole batch."""
        queries = as_points(coords).detach().float()
        queries = (queries if queries.ndim == 3 else queries[None]).expand(len(self.points), -1, -1)
        if self.trees is None:
            ranks = self._search_all(queries)
        else:
            ranks = torch.stack([tree(of_cloud) for tree, of_cloud in zip(self.trees, queries, strict=True)])
        return self.order.gather(1, ranks.flatten(1)).view_as(ranks)

    def _search_all(self, queries: Tensor) -> Tensor:
        batch, num, _ = self.points.shape
        numbers = torch.arange(num, device=queries.device)
        parts = []
        for part in queries.split(max(1, WORK // (batch * num)), dim=1):
            steps = _steps([part[..., k, None] - self.points[:, None, :, k] for k in range(part.shape[-1])])
            parts.append(_smallest(steps * num + numbers, self.count) % num)
        return torch.cat(parts, dim=1) if parts else queries.new_empty(batch, 0, self.count, dtype=torch.long)


class Tree:
    """A balanced tree of boxes over the points of one cloud `[K, axes]`, given in the order that breaks ties.

    Node 1 holds all points; nodes 2i and 2i + 1 are the halves of node i along its longest axis.
    """

    def __init__(self, points: Float[Tensor, "num axes"], count: int):
        self.num, self.count = len(points), count
        num, device = len(points), points.device
        self.depth = max(0, (-(-num // max(LEAF, 4 * count)) - 1).bit_length())
        columns = points.T.contiguous()  # one contiguous array per axis, here and below: gathers from it are fast
        finite = columns.clamp(-1e30, 1e30)
        ranks = torch.stack([column.argsort(stable=True).argsort() for column in columns])
        order = torch.arange(num, device=device)
        for level in range(self.depth):
            ends = torch.arange(1, 2**level + 1, device=device) * num // 2**level
            node = torch.searchsorted(ends, torch.arange(num, device=device), right=True)
            extents = [_extent(column[order], node, 2**level) for column in finite]
            axis = torch.stack(extents).argmax(dim=0)[node]
            order = order[(node * num + ranks[axis, order]).argsort()]
        starts = torch.arange(2**self.depth + 1, device=device) * num // 2**self.depth
        place = starts[:-1, None] + torch.arange(int(starts.diff().max()), device=device)
        in_leaf = place < starts[1:, None]  # leaves may differ by one point
        self.numbers = order[place.clamp_max(num - 1)]  # [leaves, points of a leaf]
        self.columns = [torch.where(in_leaf, column[self.numbers], torch.inf) for column in columns]
        self.sides = []
        for column in finite:
            inside = torch.where(in_leaf, column[self.numbers], column[self.numbers[:, :1]])
            levels = [(inside.amin(dim=1), inside.amax(dim=1))]
            for _ in range(self.depth):
                low, high = (side.unflatten(0, (-1, 2)) for side in levels[-1])
                levels.append((low.amin(dim=1), high.amax(dim=1)))
            unused = levels[0][0][:1]  # nodes are numbered from 1
            self.sides.append([torch.cat([unused, *(level[side] for level in reversed(levels))]) for side in (0, 1)])

    def __call__(self, queries: Float[Tensor, "queries axes"]) -> Int[Tensor, "queries count"]:
        parts = [self._search(part.T.contiguous()) for part in queries.split(max(1, WORK // (8 * LEAF)))]
        return torch.cat(parts) if parts else torch.empty(0, self.count, dtype=torch.long, device=queries.device)

    def _search(self, queries: Float[Tensor, "axes queries"]) -> Int[Tensor, "queries count"]:
        num_queries, device = queries.shape[1], queries.device
        # descend into the nearer half at every node; the points of the leaf reached bound the distance
        node = torch.ones(num_queries, dtype=torch.long, device=device)
        for _ in range(self.depth):
            left = 2 * node
            node = left + (self._to_box(queries, left + 1) < self._to_box(queries, left)).long()
        own = node - 2**self.depth
        best = _smallest(self._keys(queries, own), self.count)
        # find all boxes within that bound, level by level
        query, node = torch.arange(num_queries, device=device), torch.ones_like(own)
        bound = best[:, -1] // self.num
        for _ in range(self.depth):
            query = query.repeat_interleave(2)
            node = (2 * node).repeat_interleave(2)
            node[1::2] += 1
            near = self._to_box(queries.index_select(1, query), node) <= bound.index_select(0, query)
            query, node = query[near], node[near]
            if len(query) > WORK and num_queries > 1:  # too many boxes to hold: halve the queries
                half = num_queries // 2
                return torch.cat([self._search(queries[:, :half]), self._search(queries[:, half:])])
        leaf = node - 2**self.depth
        unsearched = leaf != own.index_select(0, query)
        query, leaf = query[unsearched], leaf[unsearched]
        # search these leaves one per query at a time, skipping those that the shrinking bound now excludes
        counts = torch.bincount(query, minlength=num_queries)
        turn = torch.arange(len(query), device=device) - (counts.cumsum(0) - counts).index_select(0, query)
        by_turn = turn.argsort(stable=True)
        for at in by_turn.split(torch.bincount(turn).tolist()):
            query_now, leaf_now = query.index_select(0, at), leaf.index_select(0, at)
            coords = queries.index_select(1, query_now)
            near = self._to_box(coords, leaf_now + 2**self.depth) <= best[:, -1].index_select(0, query_now) // self.num
            query_now, leaf_now, coords = query_now[near], leaf_now[near], coords[:, near]
            keys = torch.cat([best.index_select(0, query_now), self._keys(coords, leaf_now)], dim=1)
            best[query_now] = _smallest(keys, self.count)
        return best % self.num

    def _to_box(self, queries: Float[Tensor, "axes queries"], node: Tensor) -> Int[Tensor, " queries"]:
        """Squared distance of every coordinate to the box of its node, in steps of 1 / `STEPS`."""
        outside = [
            torch.maximum(low.index_select(0, node) - query, query - high.index_select(0, node)).clamp_min_(0)
            for query, (low, high) in zip(queries, self.sides, strict=True)
        ]
        return _steps(outside)

    def _keys(self, queries: Float[Tensor, "axes queries"], leaf: Tensor) -> Int[Tensor, "queries points"]:
        """Sort keys of the points in the leaf of every query: the distance, then the point's number, in one integer."""
        steps = _steps(
            [column.index_select(0, leaf) - query[:, None] for query, column in zip(queries, self.columns, strict=True)]
        )
        return steps.mul_(self.num).add_(self.numbers.index_select(0, leaf))


def _steps(differences: Sequence[Float[Tensor, "*shape"]]) -> Int[Tensor, "*shape"]:
    """Squared lengths, in steps of 1 / `STEPS`, from the differences along each axis.

    The axes are always summed in the same order, so that a point's distance is the same number wherever it is computed, and
    never less than the distance to the point's box.
    """
    total = differences[0].square()
    for difference in differences[1:]:
        total = total + difference.square()
    return total.mul_(STEPS).clamp_max_(FAR).round_().long()


def _smallest(keys: Int[Tensor, "*queries keys"], count: int) -> Int[Tensor, "*queries count"]:
    """The `count` smallest keys in ascending order."""
    return keys.topk(count, dim=-1, largest=False).values


def _extent(column: Float[Tensor, " num"], node: Int[Tensor, " num"], num_nodes: int) -> Float[Tensor, " nodes"]:
    """Range of the coordinates of each node's points along an axis."""
    zeros = column.new_zeros(num_nodes)
    low, high = (zeros.scatter_reduce(0, node, column, how, include_self=False) for how in ("amin", "amax"))
    return high - low
