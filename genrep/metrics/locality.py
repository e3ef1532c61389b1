"""Where a token acts: the difference that zeroing it makes (locality-aware, section 4.3, figures 5 and 12)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.render import Decodes, render


@torch.no_grad()
def token_differences(
    model: Decodes | INRAutoencoder,
    latents: Float[Tensor, "batch num_tokens latent"],
    tokens: Sequence[int],
    size: int | Sequence[int],
    mask: Bool[Tensor, "batch num_tokens"] | None = None,
) -> Float[Tensor, "batch chosen *size"]:
    """|render(latents) - render(latents with token k zeroed)|, averaged over channels, for each k in `tokens`.

    A token that has a position is left out in place of zeroed, which would move it to the middle.

    Args:
        model: has `decode(latents, coords)`.
        latents: `[B, R, D]`.
        tokens: indices of tokens.
        size: of the render.
        mask: which tokens are there, of those with positions; None is all. One that is not there makes no difference.

    Raises:
        InputError: no tokens, or a token that does not exist.
    """
    if not tokens:
        raise InputError("tokens is empty: give one index or more")
    unknown = [token for token in tokens if not 0 <= token < latents.shape[1]]
    if unknown:
        raise InputError(f"tokens must be in 0 to {latents.shape[1] - 1}; got {unknown[0]}")
    if isinstance(model, INRAutoencoder) and model.position_dim:
        there = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device) if mask is None else mask
        whole = model.render(latents, size=size, mask=there)
        differences = []
        for token in tokens:
            others = there.clone()
            others[:, token] = False
            differences.append((model.render(latents, size=size, mask=others) - whole).abs().mean(dim=1))
        return torch.stack(differences, dim=1)
    whole = render(model, latents, size)
    differences = []
    for token in tokens:
        without = latents.clone()
        without[:, token] = 0
        differences.append((render(model, without, size) - whole).abs().mean(dim=1))
    return torch.stack(differences, dim=1)


def spread(differences: Float[Tensor, "..."], num_axes: int = 2) -> Float[Tensor, "..."]:
    """Share of the signal that a difference d >= 0 covers: (Σd)² / (N Σd²).

    1/N for a single pixel, 1 for equal differences everywhere, 0 for no difference. From `[..., *shape]` with `num_axes`
    axes to `[...]`.
    """
    # The participation ratio over N: it needs no threshold on what counts as covered.
    flat = differences.flatten(-num_axes)
    total = flat.shape[-1] * flat.square().sum(-1)
    return flat.sum(-1).square() / total.clamp_min(torch.finfo(flat.dtype).tiny)
