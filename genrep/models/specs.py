"""What each model is made of, typed: the arguments of the constructors in this folder. Light: no torch here."""

from typing import Literal

from pydantic import Field, model_validator

from genrep.decoders import DecoderSpec
from genrep.encoders import EncoderSpec
from genrep.fields import FieldSpec
from genrep.specs import NonNegativeInt, PositiveInt, Size, Spec


class AutoencoderSpec(Spec):
    """The arguments of `INRAutoencoder`."""

    image_size: Size = 128
    """What the encoder takes, in pixels: a number, or [height, width]."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB."""
    num_tokens: PositiveInt = 256
    """R: the tokens of a representation."""
    latent_dim: PositiveInt = 512
    """D: the width of a token."""
    encoder: EncoderSpec
    """The hypernetwork, images to latents."""
    decoder: DecoderSpec
    """The shared INR, coordinates and latents to values."""

    @model_validator(mode="after")
    def _decoder_fits(self) -> "AutoencoderSpec":
        self.decoder.check(self.channels, self.num_tokens, self.latent_dim)
        return self

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = [self.image_size] * 2 if isinstance(self.image_size, int) else self.image_size
        return height, width


class DenoiserArchitecture(Spec):
    """The arguments of `LatentDenoiser` that a run chooses; the others follow from the latents and the data."""

    dim: PositiveInt = 512
    """Width of the transformer."""
    depth: PositiveInt = 8
    """Blocks."""
    num_heads: PositiveInt = 8
    """Attention heads."""
    head_dim: PositiveInt = 64
    """Width of a head."""
    mlp_dim: PositiveInt = 2048
    """Hidden width of the feed-forward layers."""
    conditioning: Literal["token", "adaln"] = "adaln"
    """How time and class come in: as tokens of the sequence (ANR), or through adaptive norm (adaLN-zero, DiT)."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """Feed-forward kind."""
    norm: Literal["layer", "rms"] = "layer"
    """Normalisation kind."""
    qk_norm: bool = False
    """RMS-normalise queries and keys."""


class DenoiserSpec(DenoiserArchitecture):
    """All arguments of `LatentDenoiser`."""

    num_tokens: PositiveInt
    """R."""
    latent_dim: PositiveInt
    """D."""
    num_classes: NonNegativeInt = 0
    """Classes; 0 is unconditional."""


class FieldModelSpec(Spec):
    """The arguments of `NeuralField`."""

    field: FieldSpec
    """The network."""
    shape: list[PositiveInt] = Field(min_length=1)
    """The signal's size, one number an axis."""
    channels: PositiveInt = 3
    """Channels of its values."""
