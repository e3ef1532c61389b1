"""Standardisation of latents, saved as part of a pipeline."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from genrep.arguments import check_finite
from genrep.errors import InputError
from genrep.models.loading import StrictLoading


class LatentNormalizer(StrictLoading, ModelMixin, ConfigMixin):
    """Standardised latents, with mean 0 and standard deviation 1, for the generator. Nothing is trained.

    Statistics are per token and channel, `[R, D]` (locality-aware, A.3). Tokens with positions have no order, so theirs
    are per channel, `[1, D]`, and positions may have another standard deviation.

    Args:
        num_tokens: R, or 1 for statistics shared by all tokens.
        latent_dim: D.
    """

    mean: Tensor
    std: Tensor

    @register_to_config
    def __init__(self, num_tokens: int, latent_dim: int):
        super().__init__()
        # Buffers rather than config, so that they are saved with the weights and checked by their hash.
        self.register_buffer("mean", torch.zeros(num_tokens, latent_dim))
        self.register_buffer("std", torch.ones(num_tokens, latent_dim))

    @classmethod
    def from_statistics(
        cls,
        mean: Float[Tensor, "rows latent"],
        std: Float[Tensor, "rows latent"],
        position_dim: int = 0,
        position_scale: float = 1.0,
    ) -> "LatentNormalizer":
        """A normalizer with these statistics. InputError if they are not finite.

        The first `position_dim` channels get the standard deviation `position_scale` instead of 1.
        """
        check_finite(mean, "the mean of the latents")
        check_finite(std, "the standard deviation of the latents")
        normalizer = cls(*mean.shape)
        normalizer.mean.copy_(mean)
        # A channel that never varies gets 1e-6 of the largest standard deviation, so that nothing is divided by zero; `tiny`
        # is for latents that are all constant.
        normalizer.std.copy_(std.clamp_min(1e-6 * float(std.max()) + torch.finfo(torch.float32).tiny))
        normalizer.std[:, :position_dim] /= position_scale
        return normalizer

    def standardize(self, latents: Float[Tensor, "batch tokens latent"]) -> Float[Tensor, "batch tokens latent"]:
        """The encoder's latents => standardised latents."""
        self._check(latents)
        return (latents - self.mean) / self.std

    def restore(self, standardized: Float[Tensor, "batch tokens latent"]) -> Float[Tensor, "batch tokens latent"]:
        """Standardised latents => the encoder's latents."""
        self._check(standardized)
        return standardized * self.std + self.mean

    def _check(self, latents: Tensor) -> None:
        # Broadcasting would accept a single token, or statistics of one channel, without a word.
        rows, width = self.mean.shape
        if latents.shape[-1] != width or rows not in (1, latents.shape[-2]):
            expected = f"[batch, {'tokens' if rows == 1 else rows}, {width}]"
            raise InputError(f"latents must be {expected} for this normalizer; got {list(latents.shape)}")
