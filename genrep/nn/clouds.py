"""Batched point clouds with masks: gathering points, finding neighbours, thinning and pooling, ordering along a curve.

A batch of clouds is `positions [B, N, axes]`, `features [B, N, D]` and `mask [B, N]`, True where a point is present. The order
of the points has no meaning, so everything here depends on the positions alone. Distances often tie among pixels; of such points
the first counts, so clouds are sorted by `lexicographic_order` beforehand.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FAR = 1e6
"""Coordinate or squared distance given to absent points in searches; larger than that of any present one."""

STEPS = 2048
"""Squared distances are compared in steps of 1 / 2048 of the squared unit: smaller differences may be rounding."""

FAR_STEPS = 2**40
"""Squared distance, in these steps, of absent points in searches."""


class Cloud(NamedTuple):
    """A batch of point clouds."""

    positions: Float[Tensor, "batch points axes"]
    features: Float[Tensor, "batch points dim"]
    mask: Bool[Tensor, "batch points"]


def gather(values: Float[Tensor, "batch points dim"], indices: Int[Tensor, "batch *chosen"]) -> Tensor:
    """Rows of each cloud, `[B, *chosen, dim]`."""
    flat = indices.flatten(1)
    rows = values.gather(1, flat[..., None].expand(-1, -1, values.shape[-1]))
    return rows.unflatten(1, indices.shape[1:])


def lexicographic_order(cloud: Cloud) -> Int[Tensor, "batch points"]:
    """Indices that sort each cloud by its positions, the first axis first; absent points come last. Shifts do not change it."""
    positions = cloud.positions.masked_fill(~cloud.mask[..., None], torch.inf)
    order = torch.arange(positions.shape[1], device=positions.device).expand(positions.shape[:2])
    for axis in reversed(range(positions.shape[2])):  # stable sorts from the last axis to the first
        order = order.gather(1, positions[..., axis].gather(1, order).argsort(dim=1, stable=True))
    return order


def nearest(
    queries: Float[Tensor, "batch queries axes"], cloud: Cloud, count: int, unit: float
) -> tuple[Int[Tensor, "batch queries count"], Bool[Tensor, "batch queries count"]]:
    """Indices of the points of a cloud nearest to each query, nearest first, and which of them are present.

    `unit` is a typical distance between points. Of points at the same distance, the first comes first. All pairs are compared,
    so memory grows with queries × points; suitable for clouds of up to a few thousand points.
    """
    positions = cloud.positions.masked_fill(~cloud.mask[..., None], FAR)
    count = min(count, positions.shape[1])
    # a² - 2ab + b², which cdist uses for more than 25 points, rounds away the small distances that decide the order
    distances = torch.cdist(queries, positions, compute_mode="donot_use_mm_for_euclid_dist")
    steps = (distances.square() * (STEPS / unit**2)).round().clamp_max(FAR_STEPS).long()
    points = positions.shape[1]
    keys = steps * points + torch.arange(points, device=steps.device)
    indices = keys.topk(count, dim=-1, largest=False).values % points
    present = cloud.mask.gather(1, indices.flatten(1)).unflatten(1, indices.shape[1:])
    return indices, present


def farthest_points(
    cloud: Cloud, count: Int[Tensor, " batch"], unit: float
) -> tuple[Int[Tensor, "batch kept"], Bool[Tensor, "batch kept"]]:
    """Indices of `count[b]` points of each cloud, chosen greedily farthest from those before; and which are present.

    The first point is the one nearest to the cloud's centre, so the choice does not depend on shifts. `unit` is a typical
    distance between points; of points equally far, the first is chosen.
    """
    positions, mask = cloud.positions, cloud.mask
    weights = mask.to(positions.dtype)[..., None]
    centre = (positions * weights).sum(1) / weights.sum(1).clamp(min=1)
    scale = STEPS / unit**2
    distances = ((positions - centre[:, None]).square().sum(-1) * scale).round().masked_fill(~mask, torch.inf)
    current = distances.argmin(dim=1)
    remaining = torch.full_like(distances, torch.inf).masked_fill(~mask, -1)  # so absent points are never the farthest
    chosen = []
    for _ in range(int(count.max())):
        chosen.append(current)
        latest = positions.gather(1, current[:, None, None].expand(-1, 1, positions.shape[-1]))
        remaining = torch.minimum(remaining, ((positions - latest).square().sum(-1) * scale).round())
        current = remaining.argmax(dim=1)
    indices = torch.stack(chosen, dim=1)
    return indices, torch.arange(indices.shape[1], device=indices.device) < count[:, None]


def grid_cells(
    positions: Float[Tensor, "batch points axes"], cells: int, low: float, high: float
) -> Int[Tensor, "batch points axes"]:
    """The cell of each point along every axis, in a grid of `cells` over [low, high]; points outside get the nearest cell."""
    return ((positions - low) * (cells / (high - low))).floor().clamp(0, cells - 1).long()


def interleave(cells: Int[Tensor, "batch points axes"], bits: int) -> Int[Tensor, "batch points"]:
    """Morton code: the bits of the cells interleaved, so that neighbours along the code are mostly neighbours in space."""
    axes = cells.shape[-1]
    code = torch.zeros_like(cells[..., 0])
    for bit in range(bits):
        for axis in range(axes):
            code |= ((cells[..., axis] >> bit) & 1) << (bit * axes + axes - 1 - axis)
    return code


def pool_cells(cloud: Cloud, cells: Int[Tensor, "batch points axes"], num_cells: int) -> Cloud:
    """One point per occupied cell: the maximum of each feature channel, and the mean position (PTv2 and PTv3)."""
    batch, axes = len(cells), cells.shape[-1]
    powers = num_cells ** torch.arange(axes - 1, -1, -1, device=cells.device)
    keys = (cells * powers).sum(-1).masked_fill(~cloud.mask, num_cells**axes)
    ordered, order = keys.sort(dim=1, stable=True)
    starts = torch.ones_like(ordered)
    starts[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).long()
    # index of each point's cell among the occupied cells of its cloud
    numbers = torch.zeros_like(keys).scatter(1, order, starts.cumsum(1) - 1)
    occupied = (starts * (ordered < num_cells**axes)).sum(1)
    kept = max(1, int(occupied.max()))
    numbers = numbers.masked_fill(~cloud.mask, kept)  # absent points go to an extra row, which is cut off below
    dim = cloud.features.shape[-1]
    features = torch.full_like(cloud.features[:, :1], -torch.inf).repeat(1, kept + 1, 1)
    features = features.scatter_reduce(1, numbers[..., None].expand(-1, -1, dim), cloud.features, "amax")
    sums = torch.zeros(batch, kept + 1, axes + 1, dtype=cloud.positions.dtype, device=cells.device)
    counted = torch.cat([cloud.positions, torch.ones_like(cloud.positions[..., :1])], dim=-1)
    sums = sums.scatter_add(1, numbers[..., None].expand(-1, -1, axes + 1), counted)[:, :kept]
    mask = torch.arange(kept, device=cells.device) < occupied[:, None]
    return Cloud(
        sums[..., :axes] / sums[..., axes:].clamp(min=1),
        features[:, :kept].masked_fill(~mask[..., None], 0),
        mask,
    )
