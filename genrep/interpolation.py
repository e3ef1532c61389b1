"""Interpolation of signals between the points of their grid, for any number of axes.

Coordinates follow `genrep/coords.py`: [-1, 1], axes in array order, values at the centres of the grid's cells.
"""

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from genrep.errors import InputError, did_you_mean

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


def values_at(
    signals: Float[Tensor, "batch channels *shape"],
    coords: Float[Tensor, "points axes"] | Float[Tensor, "batch points axes"],
    interpolation: str = "bicubic",
    missing: bool = False,
) -> Float[Tensor, "batch points channels"]:
    """Values of gridded signals at coordinates, `[B, N, C]`; beyond the border the edge value is repeated.

    NaN propagates to every point whose interpolation touches it. With `missing`, NaN means a missing value: a point whose
    cubic interpolation touches one is interpolated linearly between the values that are present, and is NaN only if these
    have less than half of the weight.

    Args:
        signals: `[B, C, *shape]`, such as images `[B, C, H, W]`.
        coords: `[N, axes]`, shared by the batch, or `[B, N, axes]`, separate for each signal.
        interpolation: "nearest", "bilinear" or "bicubic" (a = -0.75), along every axis, as in
            `torch.nn.functional.interpolate`.
        missing: NaN means a missing value.

    Raises:
        InputError: an unknown interpolation.
    """
    if interpolation not in INTERPOLATIONS:
        near = did_you_mean(interpolation, INTERPOLATIONS)
        raise InputError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}; got {interpolation!r}{near}")
    if missing and interpolation != "nearest":
        complete = values_at(signals, coords, interpolation)
        present = signals.isfinite().to(signals.dtype)
        weight = values_at(present, coords, "bilinear")
        partial = values_at(signals.nan_to_num() * present, coords, "bilinear") / weight.clamp_min(0.5)
        return torch.where(complete.isfinite(), complete, torch.where(weight >= 0.5, partial, torch.nan))
    batch, channels = signals.shape[:2]
    if coords.shape[-1] > 2:  # grid_sample has no cubic interpolation for these
        return _interpolate(signals, coords, interpolation)
    points = coords.flip(-1).to(signals.dtype)  # grid_sample takes (x, y)
    if coords.shape[-1] == 1:  # a curve is an image of one row, at y = 0
        signals, points = signals[:, :, None], F.pad(points, (0, 1))
    if coords.ndim == 2 and signals.device.type == "cpu":
        # shared coordinates: signals become channels, so that the weights are computed once
        signals, points = signals.reshape(1, batch * channels, *signals.shape[2:]), points[None]
    elif coords.ndim == 2:
        # a GPU runs one thread per point and image, each over all channels: as channels of one image they would be serial
        points = points.expand(batch, -1, -1)
    sampled = F.grid_sample(signals, points[:, :, None], mode=interpolation, padding_mode="border", align_corners=False)
    return sampled.reshape(batch, channels, -1).transpose(1, 2)


def _interpolate(
    signals: Float[Tensor, "batch channels *shape"],
    coords: Float[Tensor, "points axes"] | Float[Tensor, "batch points axes"],
    interpolation: str,
) -> Float[Tensor, "batch points channels"]:
    """`values_at` as a sum over the neighbours of every point: 1, 2 or 4 along each axis."""
    shape, flat = signals.shape[2:], signals.flatten(2)  # [B, C, P]
    neighbours = []  # for every axis: (index, weight) of each neighbour, [..., N]
    for axis, length in enumerate(shape):
        place = ((coords[..., axis].to(signals.dtype) + 1) * length - 1) / 2
        if interpolation != "bicubic":  # for bicubic torch clamps the neighbours only, not the place
            place = place.clamp(0, length - 1)
        if interpolation == "nearest":
            neighbours.append([(place.round().long(), torch.ones_like(place))])
            continue
        first = place.floor()
        part = place - first
        weights = _cubic_weights(part) if interpolation == "bicubic" else [1 - part, part]
        start = -1 if interpolation == "bicubic" else 0
        neighbours.append(
            [
                ((first.long() + offset).clamp(0, length - 1), weight)
                for offset, weight in enumerate(weights, start=start)
            ]
        )
    total = signals.new_zeros(*signals.shape[:2], coords.shape[-2])
    for corner in itertools.product(*neighbours):
        index = torch.zeros_like(corner[0][0])
        weight = torch.ones_like(corner[0][1])
        for (along, share), length in zip(corner, shape, strict=True):
            index, weight = index * length + along, weight * share
        if coords.ndim == 2:
            total += flat.index_select(2, index) * weight
        else:
            total += flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1)) * weight[:, None]
    return total.transpose(1, 2)


def _cubic_weights(part: Tensor, a: float = -0.75) -> list[Tensor]:
    """Weights of the neighbours at -1, 0, 1 and 2 for a point at `part` in [0, 1) (Keys, 1981)."""

    def near(x: Tensor) -> Tensor:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [far(part + 1), near(part), near(1 - part), far(2 - part)]
