"""Losses of a denoiser that predicts the clean latents. Those of GANs are in `genrep/gan/losses.py`."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def latent_loss(
    predicted: Float[Tensor, "batch tokens latent"],
    clean: Float[Tensor, "batch tokens latent"],
    weight: Float[Tensor, " batch"],
    mask: Bool[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over signals of weight · MSE, on standardised latents (x0 parameterisation); of the tokens that are there."""
    squares = (predicted - clean).square()
    if mask is None:
        return (weight * squares.flatten(1).mean(1)).mean()
    of_token = torch.where(mask, squares.mean(2), 0).sum(1)
    return (weight * of_token / mask.sum(1).clamp_min(1)).mean()


def two_term_loss(
    predicted: Float[Tensor, "batch tokens latent"],
    clean: Float[Tensor, "batch tokens latent"],
    predicted_values: Float[Tensor, "batch points channels"],
    values: Float[Tensor, "batch points channels"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """ANR's loss (appendix I, fig. 14): the mean of Loss1, MSE of the decoded image, and Loss2, of the tokens.

    Loss2 is the MSE of tokens L2-normalised along their last dimension d, times d: unit vectors have entries of size
    1/sqrt(d), so this brings them back to the size of the pixels. Latents are the encoder's own, not standardised.
    """
    image = (predicted_values - values).square().flatten(1).mean(1)
    difference = F.normalize(predicted, dim=-1) - F.normalize(clean, dim=-1)
    token = difference.square().flatten(1).mean(1) * predicted.shape[-1]
    return (weight * 0.5 * (image + token)).mean()
