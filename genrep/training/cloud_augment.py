"""Augmentation of latent clouds (ARC, figure 3): noise, masking, push, rotation, flip, shift, mixing.

The random numbers of a sample depend on its position in the training stream, never on its batch.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genrep.clouds import moved, scaled, turned
from genrep.randomness import normal_at, uniform_at
from genrep.training.specs import CloudAugmentSpec


def mix(
    latents: Float[Tensor, "batch tokens latent"],
    mask: Bool[Tensor, "batch tokens"],
    partners: Float[Tensor, "batch tokens latent"],
    partner_mask: Bool[Tensor, "batch tokens"],
    share: Float[Tensor, " batch"],
    draws: Float[Tensor, "batch two tokens"],
) -> tuple[Float[Tensor, "batch tokens latent"], Bool[Tensor, "batch tokens"]]:
    """ARCMix: ⌊λ n₁⌋ random points of a cloud and ⌊(1 - λ) n₂⌋ of its partner. The caller mixes the labels.

    Args:
        share: λ of each sample.
        draws: uniform random numbers that choose the points of the cloud and of its partner.
    """
    kept = _random_points(mask, (share * mask.sum(1)).long(), draws[:, 0])
    partner_kept = _random_points(partner_mask, ((1 - share) * partner_mask.sum(1)).long(), draws[:, 1])
    points, present = torch.cat([latents, partners], dim=1), torch.cat([kept, partner_kept], dim=1)
    # chosen points first; they fit, because there are at most as many as in the larger of the two clouds
    order = (~present).to(torch.uint8).argsort(dim=1, stable=True)[:, : latents.shape[1]]
    mixed = points.gather(1, order[..., None].expand(-1, -1, points.shape[-1]))
    return mixed, present.gather(1, order)


def _random_points(
    mask: Bool[Tensor, "batch tokens"], count: Tensor, draws: Float[Tensor, "batch tokens"]
) -> Bool[Tensor, "batch tokens"]:
    """True for `count[b]` of the present points, those with the smallest draws."""
    ranks = draws.masked_fill(~mask, 2.0).argsort(dim=1).argsort(dim=1)
    return (ranks < count[:, None]) & mask


def augment_clouds(
    latents: Float[Tensor, "batch tokens latent"],
    mask: Bool[Tensor, "batch tokens"],
    shape: Sequence[int],
    spec: CloudAugmentSpec,
    positions: Sequence[int],
    seed: int,
) -> tuple[Float[Tensor, "batch tokens latent"], Bool[Tensor, "batch tokens"]]:
    """Clouds with noise on their features, points dropped, and positions pushed, mirrored, rotated and shifted.

    Args:
        latents, mask: tokens whose leading `len(shape)` numbers are their position, and which tokens are present.
        shape: size of the image in pixels, the unit of `push` and `shift`.
        spec: strength of each augmentation.
        positions: positions of the samples in the training stream, which key the random numbers.
        seed: seed of the run.
    """
    axes, (tokens, width) = len(shape), latents.shape[1:]
    pitch = latents.new_tensor([2 / length for length in shape])

    def uniform(stream: str, *size: int) -> Tensor:
        return uniform_at(positions, size, seed, stream).to(latents.device)

    if spec.noise:
        noise = normal_at(positions, (tokens, width - axes), seed, "cloud noise").to(latents.device)
        latents = torch.cat([latents[..., :axes], latents[..., axes:] + spec.noise * noise], dim=-1)
    if spec.drop:
        count = mask.sum(1) - (spec.drop * mask.sum(1)).long()
        mask = _random_points(mask, count, uniform("cloud drop", tokens))
    if spec.push:
        latents = moved(latents, spec.push * pitch * (2 * uniform("cloud push", tokens, axes) - 1))
    if spec.flip:
        factors = latents.new_ones(len(latents), 1, axes)
        factors[uniform("cloud flip") < 0.5, :, -1] = -1
        latents = scaled(latents, factors)
    if spec.rotation:
        latents = turned(latents, spec.rotation * (2 * uniform("cloud rotation") - 1), shape)
    if spec.shift:
        latents = moved(latents, spec.shift * pitch * (2 * uniform("cloud shift", 1, axes) - 1))
    return latents, mask
