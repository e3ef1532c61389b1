"""Standardisation of latents, saved with the pipeline."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from genrep.arguments import check_finite
from genrep.errors import InputError
from genrep.models.loading import StrictLoading


class LatentNormalizer(StrictLoading, ModelMixin, ConfigMixin):
    """Mean 0 and deviation 1 for every token and channel: the generator's side of the latents. Nothing is trained.

    Tokens with positions have no order, so that their statistics are those of the channels, `[1, D]`.

    Args:
        num_tokens, latent_dim: R, or 1 for all tokens alike, and D of the statistics.
    """

    mean: Tensor
    std: Tensor

    @register_to_config
    def __init__(self, num_tokens: int, latent_dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_tokens, latent_dim))
        self.register_buffer("std", torch.ones(num_tokens, latent_dim))

    @classmethod
    def from_statistics(
        cls, mean: Float[Tensor, "rows latent"], std: Float[Tensor, "rows latent"]
    ) -> "LatentNormalizer":
        """Channels that never vary keep a deviation of 1e-6 of the largest, so that nothing is divided by zero.

        InputError for statistics that are not finite.
        """
        check_finite(mean, "the mean of the latents")
        check_finite(std, "the deviation of the latents")
        normalizer = cls(*mean.shape)
        normalizer.mean.copy_(mean)
        normalizer.std.copy_(std.clamp_min(1e-6 * float(std.max()) + torch.finfo(torch.float32).tiny))
        return normalizer

    def standardize(self, latents: Float[Tensor, "batch tokens latent"]) -> Float[Tensor, "batch tokens latent"]:
        """Encoder's latents => standardised latents."""
        self._check(latents)
        return (latents - self.mean) / self.std

    def restore(self, standardized: Float[Tensor, "batch tokens latent"]) -> Float[Tensor, "batch tokens latent"]:
        """Standardised latents => encoder's latents."""
        self._check(standardized)
        return standardized * self.std + self.mean

    def _check(self, latents: Tensor) -> None:
        rows, width = self.mean.shape
        if latents.shape[-1] != width or rows not in (1, latents.shape[-2]):
            raise InputError(
                f"latents of shape {list(latents.shape)} do not fit: this normalizer has [batch, {rows}, {width}]"
            )
