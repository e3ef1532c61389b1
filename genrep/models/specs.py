"""What each model is made of, typed: the arguments of the constructors in this folder. Does not import torch.

Not how a run goes: that is in `genrep/training/specs.py`; what specs are is in `genrep/specs.py`.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from genrep.decoders import DecoderSpec
from genrep.encoders import CloudFitSpec, EncoderSpec
from genrep.fields import FieldSpec
from genrep.signals import SignalSpec
from genrep.specs import Fraction, Frequencies, GridSize, NonNegativeInt, PositiveFloat, PositiveInt, Spec, grid_of


class AutoencoderSpec(Spec):
    """The arguments of `INRAutoencoder`."""

    image_size: GridSize = 128
    """The grid that the encoder takes: a number for a square image, or one length per axis, as [height, width] or [samples]."""
    channels: PositiveInt = 3
    """Channels of the values: 1 for grey, 3 for RGB."""
    num_tokens: PositiveInt = 256
    """R: the tokens of a representation."""
    latent_dim: PositiveInt = 512
    """D: the width of a token."""
    encoder: EncoderSpec
    """The hypernetwork, signals to latents."""
    decoder: DecoderSpec
    """The shared INR, coordinates and latents to values."""
    signal: SignalSpec | None = None
    """What the values mean; null is what the data say, in training, or else images."""
    missing: bool = False
    """Values may be missing (NaN): the encoder then gets 0 in their place, and a channel that says which are there."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "AutoencoderSpec":
        self.encoder.check(len(self.image_shape))
        self.decoder.check(self.channels, self.num_tokens, self.latent_dim, len(self.image_shape))
        if isinstance(self.encoder, CloudFitSpec):
            self.encoder.check_cloud(self.decoder.position_dim, self.num_tokens, self.image_shape)
        # written out, as earlier versions did: their runs go on, and an equal model has an equal config
        return self.model_copy(update={"decoder": self.decoder.with_axes(len(self.image_shape))})

    @property
    def image_shape(self) -> tuple[int, ...]:
        """One length per axis: (height, width) of images."""
        return grid_of(self.image_size)


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
    position_dim: NonNegativeInt = 0
    """Leading channels of a token that are its position; 0 is tokens with slots."""


class FieldModelSpec(Spec):
    """The arguments of `NeuralField`."""

    field: FieldSpec
    """The network."""
    shape: list[PositiveInt] = Field(min_length=1)
    """The signal's size, one number an axis."""
    channels: PositiveInt = 3
    """Channels of its values."""
    signal: SignalSpec | None = None
    """What the values mean; null is pictures."""


class GeneratorArchitecture(Spec):
    """The arguments of `CoordinateGenerator` that a run chooses; the others follow from the target and the data."""

    noise_dim: PositiveInt = 512
    """Width of the noise vector."""
    widths: list[PositiveInt] = Field(default=[512, 512, 256, 256, 256, 128, 128, 32], min_length=2)
    """Outputs of the first layer, then of every residual block."""
    tile: PositiveInt | list[PositiveInt] = Field(default=[4, 8, 8, 4, 4, 4, 4])
    """Weight matrices along every axis in the blocks' expert layers, one number or one for each block; 1 is a Linear."""
    cells: list[PositiveInt] = Field(default=[4, 8, 16, 32, 64, 128, 256])
    """Cells of each block's grid along every axis."""
    tiles_start: Literal["apart", "equal"] = "apart"
    """Every matrix of a layer from a draw of its own, as in the paper, or all equal: at first the network knows no tiles."""
    noise_gain: PositiveFloat = 1.0
    """A factor on the noise's weights at the start, on top of the one Linear of place and noise that the first layer starts
    as; 1 is the paper's start."""
    num_frequencies: Frequencies = 8
    """Frequencies of the positional encoding on each axis, beside the coordinates: 1, 2, 4, ... periods over [-1, 1]."""
    embedding_dim: NonNegativeInt = 0
    """Channels of a learned coordinate embedding (the CE baseline); 0 is none."""
    embedding_size: PositiveInt | list[PositiveInt] = 256
    """Cells of that embedding along every axis."""

    @property
    def tiles(self) -> list[int]:
        """Matrices along an axis, of every block."""
        return [self.tile] * (len(self.widths) - 1) if isinstance(self.tile, int) else self.tile

    @model_validator(mode="after")
    def _one_for_each_block(self) -> "GeneratorArchitecture":
        blocks = len(self.widths) - 1
        for name, given in (("tile", self.tiles), ("cells", self.cells)):
            if len(given) != blocks:
                raise ValueError(
                    f"{name} has {len(given)} numbers for {blocks} blocks: give one for each width after the first"
                )
        return self


class GeneratorSpec(GeneratorArchitecture):
    """All arguments of `CoordinateGenerator`."""

    num_axes: PositiveInt
    """Axes of the coordinates."""
    channels: PositiveInt
    """Width of the values."""
    num_classes: NonNegativeInt = 0
    """Classes; 0 is unconditional."""


class DiscriminatorArchitecture(Spec):
    """The arguments of `ImageDiscriminator` and `TokenDiscriminator` that a run chooses."""

    width: PositiveInt = 64
    """Channels after the first convolution; they double up to 8 times."""
    depth: Annotated[int, Field(ge=2)] = 5
    """Convolutions of kernel 3 and stride 2, the last one included."""
    scales: PositiveInt = 2
    """Sizes that images are seen at, each half of the one before."""
    token_width: PositiveInt = 256
    """Hidden width of the discriminator of tokens."""
    token_depth: Annotated[int, Field(ge=2)] = 4
    """Its linear layers, the last one included."""
    spectral_norm: bool = True
    """Divide every weight matrix by its largest singular value, as the paper does; without it let R1 hold them."""


class ImageDiscriminatorSpec(Spec):
    """All arguments of `ImageDiscriminator`."""

    channels: PositiveInt = 3
    """Of the signals."""
    num_classes: NonNegativeInt = 0
    """Classes; 0 is unconditional."""
    width: PositiveInt = 64
    """Channels after the first convolution."""
    depth: Annotated[int, Field(ge=2)] = 5
    """Convolutions."""
    scales: PositiveInt = 2
    """Sizes that signals are seen at."""
    spectral_norm: bool = True
    """Of every weight."""
    num_axes: PositiveInt = 2
    """Axes of the signals."""


class TokenDiscriminatorSpec(Spec):
    """All arguments of `TokenDiscriminator`."""

    num_tokens: PositiveInt
    """R."""
    latent_dim: PositiveInt
    """D."""
    num_classes: NonNegativeInt = 0
    """Classes; 0 is unconditional."""
    width: PositiveInt = 256
    """Of the hidden layers."""
    depth: Annotated[int, Field(ge=2)] = 4
    """Linear layers."""
    spectral_norm: bool = True
    """Of every weight."""


class ClassifierArchitecture(Spec):
    """The convolutional classifier behind fd_classifier."""

    width: Annotated[int, Field(gt=0, multiple_of=8)] = 64
    """Channels of the first stage, a multiple of 8; they double with every halving of the image."""
    stages: PositiveInt = 2
    """Resolutions, each half of the one before."""
    dropout: Fraction = 0.1
    """Dropout before the last layer."""


class ClassifierSpec(ClassifierArchitecture):
    """All arguments of `ImageClassifier`."""

    image_size: GridSize
    """The grid it is trained on: the side of square images, or one length per axis, up to three."""
    channels: PositiveInt
    """Of the values."""
    num_classes: PositiveInt
    """Classes."""
    signal: SignalSpec | None = None
    """What the values mean; null is images."""
