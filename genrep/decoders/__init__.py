"""Shared INRs: coordinates and latents to values. The table of what there is; a new one is a spec here and a file."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from genrep.specs import Fraction, PositiveInt, Spec

if TYPE_CHECKING:
    from torch import nn


class LocalizedAttentionSpec(Spec):
    """ANR: one localized attention layer from coordinates to tokens, then an MLP."""

    type: Literal["localized_attention"]
    hidden_dim: PositiveInt = 512
    """Width of the MLP."""
    depth: PositiveInt = 5
    """Linear layers of the MLP, the output layer included."""
    num_heads: PositiveInt = 6
    """Attention heads."""
    head_dim: PositiveInt = 64
    """Width of a head."""
    num_frequencies: PositiveInt = 128
    """Frequencies of the positional encoding on each axis."""
    max_frequency: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    """Highest frequency, in periods over the image; null is the training grid's Nyquist limit, size / 2."""
    threshold: Fraction | None = None
    """m of L-softmax; null is 0.384 / tokens, the rule behind the paper's 0.0015 at 256 tokens."""

    def build(self, image_size: tuple[int, int], channels: int, num_tokens: int, latent_dim: int) -> "nn.Module":
        from genrep.decoders.localized_attention import LocalizedAttentionDecoder

        options = self.model_dump(exclude={"type"})
        if self.max_frequency is None:
            options["max_frequency"] = max(1.0, max(image_size) / 2)
        if self.threshold is None:
            options["threshold"] = 0.384 / num_tokens
        return LocalizedAttentionDecoder(channels, latent_dim, **options)


DecoderSpec = LocalizedAttentionSpec
"""Every decoder there is: a union, told apart by `type`."""
