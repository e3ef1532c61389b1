"""The nearest points of a cloud, exactly and in bounded memory: from a few dozen points to a million, any number of axes."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genrep.coords import Coords, as_points

STEPS = 1024
"""Squared distances are compared in steps of 1 / 1024: finer ones are rounding, where points lie on a grid of whole numbers."""

FAR = 2**40
"""What a point counts as that is not there, in such steps."""

FEW = 512
"""Points up to which every one of them is looked at; above, those that a tree says are near."""

LEAF = 16
"""Points of a leaf of that tree, at most."""

WORK = 2**20
"""Distances held at a time."""


class NearestPoints:
    """For clouds `[B, K, axes]`, which points of each are the nearest to any coordinate.

    Equal distances are decided by the points' coordinates (the first axis first), so the order in which a cloud is given
    changes nothing; and distances that differ by less than `STEPS` says are equal, so rounding changes nothing where
    coordinates are whole numbers, or fractions like a quarter. Points whose coordinates are not finite are the last of all.

    Every point is looked at where there are `FEW`. Above that a balanced tree of boxes is searched: each coordinate's own
    leaf bounds the distance, and only boxes within that bound are opened. Both give the same points.

    Args:
        points: `[B, K, axes]`, in a unit in which distances are wanted, such as pixels.
        count: how many to find.
        mask: `[B, K]`, False for points that are not there; every cloud must have `count` or more.
    """

    def __init__(
        self, points: Float[Tensor, "batch num axes"], count: int, mask: Bool[Tensor, "batch num"] | None = None
    ):
        self.count = count
        points = points.detach().float()
        there = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device) if mask is None else mask
        keys = torch.where(there[..., None], points, torch.inf).nan_to_num(nan=torch.inf, posinf=torch.inf)
        order = torch.arange(points.shape[1], device=points.device).expand(points.shape[:2])
        for axis in reversed(range(points.shape[2])):  # the order that decides: by the first axis, then by the next
            column = keys[..., axis].gather(1, order)
            order = order.gather(1, column.argsort(dim=1, stable=True))
        self.order, self.points = order, keys.gather(1, order[..., None].expand_as(keys))
        self.trees = [Tree(cloud, count) for cloud in self.points] if points.shape[1] > FEW else None

    def __call__(self, coords: Coords) -> Int[Tensor, "batch queries count"]:
        """Indices of the nearest points, nearest first, of coordinates `[N, axes]` that the batch shares or `[B, N, axes]`."""
        queries = as_points(coords).detach().float()
        queries = (queries if queries.ndim == 3 else queries[None]).expand(len(self.points), -1, -1)
        if self.trees is None:
            ranks = self._look_at_all(queries)
        else:
            ranks = torch.stack([tree(each) for tree, each in zip(self.trees, queries, strict=True)])
        return self.order.gather(1, ranks.flatten(1)).view_as(ranks)

    def _look_at_all(self, queries: Tensor) -> Tensor:
        batch, num, _ = self.points.shape
        numbers = torch.arange(num, device=queries.device)
        parts = []
        for part in queries.split(max(1, WORK // (batch * num)), dim=1):
            steps = _steps([part[..., k, None] - self.points[:, None, :, k] for k in range(part.shape[-1])])
            parts.append(_smallest(steps * num + numbers, self.count) % num)
        return torch.cat(parts, dim=1) if parts else queries.new_empty(batch, 0, self.count, dtype=torch.long)


class Tree:
    """A balanced tree of boxes over the points of one cloud `[K, axes]`, which are numbered in the order that decides.

    Node 1 is all of them; nodes 2i and 2i + 1 are the halves of node i along its longer axis.
    """

    def __init__(self, points: Float[Tensor, "num axes"], count: int):
        self.num, self.count = len(points), count
        num, device = len(points), points.device
        self.depth = max(0, (-(-num // max(LEAF, 4 * count)) - 1).bit_length())
        columns = points.T.contiguous()  # an axis after the other, here and below: numbers side by side are read fast
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
        is_there = place < starts[1:, None]
        self.numbers = order[place.clamp_max(num - 1)]  # [leaves, points of a leaf]
        self.columns = [torch.where(is_there, column[self.numbers], torch.inf) for column in columns]
        self.sides = []
        for column in finite:
            inside = torch.where(is_there, column[self.numbers], column[self.numbers[:, :1]])
            levels = [(inside.amin(dim=1), inside.amax(dim=1))]
            for _ in range(self.depth):
                low, high = (side.unflatten(0, (-1, 2)) for side in levels[-1])
                levels.append((low.amin(dim=1), high.amax(dim=1)))
            nowhere = levels[0][0][:1]  # there is no node 0
            self.sides.append([torch.cat([nowhere, *(level[side] for level in reversed(levels))]) for side in (0, 1)])

    def __call__(self, queries: Float[Tensor, "queries axes"]) -> Int[Tensor, "queries count"]:
        parts = [self._search(part.T.contiguous()) for part in queries.split(max(1, WORK // (8 * LEAF)))]
        return torch.cat(parts) if parts else torch.empty(0, self.count, dtype=torch.long, device=queries.device)

    def _search(self, queries: Float[Tensor, "axes queries"]) -> Int[Tensor, "queries count"]:
        num_queries, device = queries.shape[1], queries.device
        # down to each coordinate's own leaf, whose points bound the distance
        node = torch.ones(num_queries, dtype=torch.long, device=device)
        for _ in range(self.depth):
            left = 2 * node
            node = left + (self._to_box(queries, left + 1) < self._to_box(queries, left)).long()
        own = node - 2**self.depth
        best = _smallest(self._keys(queries, own), self.count)
        # all boxes within that bound, level by level
        query, node = torch.arange(num_queries, device=device), torch.ones_like(own)
        bound = best[:, -1] // self.num
        for _ in range(self.depth):
            query = query.repeat_interleave(2)
            node = (2 * node).repeat_interleave(2)
            node[1::2] += 1
            near = self._to_box(queries.index_select(1, query), node) <= bound.index_select(0, query)
            query, node = query[near], node[near]
            if len(query) > WORK and num_queries > 1:  # too many boxes at a time
                half = num_queries // 2
                return torch.cat([self._search(queries[:, :half]), self._search(queries[:, half:])])
        leaf = node - 2**self.depth
        other = leaf != own.index_select(0, query)
        query, leaf = query[other], leaf[other]
        # the leaves one after another, each only if it is still within the bound
        counts = torch.bincount(query, minlength=num_queries)
        turn = torch.arange(len(query), device=device) - (counts.cumsum(0) - counts).index_select(0, query)
        by_turn = turn.argsort(stable=True)
        for at in by_turn.split(torch.bincount(turn).tolist()):
            asking, opened = query.index_select(0, at), leaf.index_select(0, at)
            places = queries.index_select(1, asking)
            near = self._to_box(places, opened + 2**self.depth) <= best[:, -1].index_select(0, asking) // self.num
            asking, opened, places = asking[near], opened[near], places[:, near]
            keys = torch.cat([best.index_select(0, asking), self._keys(places, opened)], dim=1)
            best[asking] = _smallest(keys, self.count)
        return best % self.num

    def _to_box(self, queries: Float[Tensor, "axes queries"], node: Tensor) -> Int[Tensor, " queries"]:
        """Squared distances of coordinates to the boxes of nodes, one each, in steps."""
        outside = [
            torch.maximum(low.index_select(0, node) - query, query - high.index_select(0, node)).clamp_min_(0)
            for query, (low, high) in zip(queries, self.sides, strict=True)
        ]
        return _steps(outside)

    def _keys(self, queries: Float[Tensor, "axes queries"], leaf: Tensor) -> Int[Tensor, "queries points"]:
        """What the points of a leaf each are sorted by: their distance, then their number."""
        steps = _steps(
            [column.index_select(0, leaf) - query[:, None] for query, column in zip(queries, self.columns, strict=True)]
        )
        return steps.mul_(self.num).add_(self.numbers.index_select(0, leaf))


def _steps(differences: Sequence[Float[Tensor, "*shape"]]) -> Int[Tensor, "*shape"]:
    """Squared lengths in steps of 1 / `STEPS`, of differences along each axis.

    The axes are summed in one order: a point's distance is the same number wherever it is computed, and no less than its
    box's.
    """
    total = differences[0].square()
    for difference in differences[1:]:
        total = total + difference.square()
    return total.mul_(STEPS).clamp_max_(FAR).round_().long()


def _smallest(keys: Int[Tensor, "*queries keys"], count: int) -> Int[Tensor, "*queries count"]:
    """The smallest keys, in order."""
    return keys.topk(count, dim=-1, largest=False).values


def _extent(column: Float[Tensor, " num"], node: Int[Tensor, " num"], num_nodes: int) -> Float[Tensor, " nodes"]:
    """How far the coordinates of each node's points are apart."""
    none = column.new_zeros(num_nodes)
    low, high = (none.scatter_reduce(0, node, column, how, include_self=False) for how in ("amin", "amax"))
    return high - low
