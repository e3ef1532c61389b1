"""What can be done to a cloud as such: its anchors moved, hidden, mixed with those of another (ARC, figures 3, 5 and 6)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genrep.arguments import Number
from genrep.coords import Region, image_region

Mask = Bool[Tensor, "batch tokens"]


def moved(
    latents: Float[Tensor, "batch tokens latent"], shift: Sequence[Number]
) -> Float[Tensor, "batch tokens latent"]:
    """All anchors displaced by the same vector, in coordinates: 2 / N along an axis is a pixel of N."""
    return _placed(latents, latents[..., : len(shift)] + latents.new_tensor(shift))


def scaled(
    latents: Float[Tensor, "batch tokens latent"], factors: Sequence[Number]
) -> Float[Tensor, "batch tokens latent"]:
    """Positions multiplied along each axis, about the middle of the image; -1 mirrors it."""
    return _placed(latents, latents[..., : len(factors)] * latents.new_tensor(factors))


def turned(
    latents: Float[Tensor, "batch tokens latent"], degrees: Number, shape: Sequence[int]
) -> Float[Tensor, "batch tokens latent"]:
    """Anchors of images of `shape`, (height, width), rotated about the middle, anticlockwise as one looks at the image.

    The rotation is one of pixels, which are square: in coordinates it is none where height and width differ.
    """
    pixels = latents.new_tensor(shape) / 2
    y, x = (latents[..., :2] * pixels).unbind(-1)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _placed(latents, torch.stack([cos * y - sin * x, sin * y + cos * x], dim=-1) / pixels)


def within(latents: Float[Tensor, "batch tokens latent"], region: Region, num_axes: int = 2) -> Mask:
    """Which anchors lie in a region, starts then ends: (y0, x0, y1, x1). InputError if it is empty."""
    bounds = latents.new_tensor(image_region(region, num_axes))
    positions = latents[..., :num_axes]
    return ((positions >= bounds[:num_axes]) & (positions < bounds[num_axes:])).all(dim=-1)


def stacked(
    clouds: Sequence[tuple[Float[Tensor, "batch _ latent"], Bool[Tensor, "batch _"] | None]],
) -> tuple[Float[Tensor, "batch tokens latent"], Mask]:
    """Clouds, each with its mask, as one: the anchors of all of them, and which are there."""
    masks = [latents.new_ones(latents.shape[:2]).bool() if mask is None else mask for latents, mask in clouds]
    return torch.cat([latents for latents, _ in clouds], dim=1), torch.cat(masks, dim=1)


def _placed(latents: Tensor, positions: Tensor) -> Tensor:
    """The same features at other positions."""
    return torch.cat([positions, latents[..., positions.shape[-1] :]], dim=-1)
