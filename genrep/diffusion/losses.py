"""Losses for a denoiser that predicts clean latents. The losses of GANs are in `genrep/gan/losses.py`."""

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
    """Mean over the batch of weight · MSE, for standardised latents (x0 prediction); masked tokens do not count."""
    squares = (predicted - clean).square()
    if mask is None:
        return (weight * squares.flatten(1).mean(1)).mean()
    # The mean over each set's own tokens: every signal has the same weight, whatever the size of its set. Empty sets give 0.
    token_sum = torch.where(mask, squares.mean(2), 0).sum(1)
    return (weight * token_sum / mask.sum(1).clamp_min(1)).mean()


def two_term_loss(
    predicted: Float[Tensor, "batch tokens latent"],
    clean: Float[Tensor, "batch tokens latent"],
    predicted_values: Float[Tensor, "batch points channels"],
    values: Float[Tensor, "batch points channels"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """ANR's loss (appendix I, fig. 14): the mean of Loss1, the MSE of the decoded image, and Loss2, that of the tokens.

    Loss2 is the MSE of the tokens, L2-normalised along their last dimension d, times d. Latents are the encoder's, not
    standardised.
    """
    image_loss = (predicted_values - values).square().flatten(1).mean(1)
    difference = F.normalize(predicted, dim=-1) - F.normalize(clean, dim=-1)
    # Entries of unit vectors are of size 1/sqrt(d): without the factor d, Loss2 would be d times smaller than Loss1.
    token_loss = difference.square().flatten(1).mean(1) * predicted.shape[-1]
    return (weight * 0.5 * (image_loss + token_loss)).mean()


def alignment_loss(
    projected: Float[Tensor, "batch places features"], features: Float[Tensor, "batch places features"]
) -> Float[Tensor, ""]:
    """Negative cosine similarity of features at every place, averaged (REPA, Yu et al., 2025); between -1 and 1."""
    return -F.cosine_similarity(projected.float(), features.float(), dim=-1).mean()
