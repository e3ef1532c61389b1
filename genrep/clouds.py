"""Edits of a cloud: its anchors moved, scaled, rotated, selected, and combined with another cloud's (ARC, figures 3, 5 and 6)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genrep.arguments import Number
from genrep.coords import Region, image_region

Mask = Bool[Tensor, "batch tokens"]


def moved(
    latents: Float[Tensor, "batch tokens latent"], shift: Sequence[Number] | Float[Tensor, "#batch #tokens axes"]
) -> Float[Tensor, "batch tokens latent"]:
    """Anchors shifted by the same vector, or each by its own, in coordinates: with N pixels along an axis, a pixel is 2 / N."""
    vector = torch.as_tensor(shift, dtype=latents.dtype, device=latents.device)
    return _placed(latents, latents[..., : vector.shape[-1]] + vector)


def scaled(
    latents: Float[Tensor, "batch tokens latent"], factors: Sequence[Number] | Float[Tensor, "#batch #tokens axes"]
) -> Float[Tensor, "batch tokens latent"]:
    """Positions multiplied by a factor along each axis, about the centre of the image; -1 mirrors."""
    factor = torch.as_tensor(factors, dtype=latents.dtype, device=latents.device)
    return _placed(latents, latents[..., : factor.shape[-1]] * factor)


def turned(
    latents: Float[Tensor, "batch tokens latent"], degrees: Number | Float[Tensor, " batch"], shape: Sequence[int]
) -> Float[Tensor, "batch tokens latent"]:
    """Anchors of images of `shape`, (height, width), rotated anticlockwise about the centre, by one angle or one per cloud.

    The rotation is in pixels, which are square; in coordinates, an image that is not square would be sheared.
    """
    pixels = latents.new_tensor(shape) / 2
    y, x = (latents[..., :2] * pixels).unbind(-1)
    angles = torch.as_tensor(degrees, dtype=latents.dtype, device=latents.device).deg2rad().reshape(-1, 1)
    cos, sin = angles.cos(), angles.sin()
    return _placed(latents, torch.stack([cos * y - sin * x, sin * y + cos * x], dim=-1) / pixels)


def within(latents: Float[Tensor, "batch tokens latent"], region: Region, num_axes: int = 2) -> Mask:
    """Which anchors lie in a region (y0, x0, y1, x1): its starts, then its ends. InputError if the region is empty."""
    bounds = latents.new_tensor(image_region(region, num_axes))
    positions = latents[..., :num_axes]
    return ((positions >= bounds[:num_axes]) & (positions < bounds[num_axes:])).all(dim=-1)


def stacked(
    clouds: Sequence[tuple[Float[Tensor, "batch _ latent"], Bool[Tensor, "batch _"] | None]],
) -> tuple[Float[Tensor, "batch tokens latent"], Mask]:
    """Several clouds with their masks (None: all anchors are present) joined into one cloud, and its mask."""
    masks = [latents.new_ones(latents.shape[:2]).bool() if mask is None else mask for latents, mask in clouds]
    return torch.cat([latents for latents, _ in clouds], dim=1), torch.cat(masks, dim=1)


def _placed(latents: Tensor, positions: Tensor) -> Tensor:
    """The same features at other positions."""
    return torch.cat([positions, latents[..., positions.shape[-1] :]], dim=-1)
