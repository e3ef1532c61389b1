"""Typed specs of the models in this folder: the arguments of their constructors. Does not import torch.

The settings of a run are in `genrep/training/specs.py`, the base class of specs in `genrep/specs.py`.
"""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from genrep.decoders import AnchoredSpec, DecoderSpec
from genrep.encoders import CloudFitSpec, EncoderSpec, num_anchors
from genrep.fields import FieldSpec
from genrep.signals import SignalSpec
from genrep.specs import Fraction, Frequencies, GridSize, NonNegativeInt, PositiveFloat, PositiveInt, Spec, grid_of


class AutoencoderSpec(Spec):
    """The arguments of `INRAutoencoder`."""

    image_size: GridSize = 128
    """The grid that the encoder takes: one number for a square image, or one length per axis: [height, width], [samples]."""
    channels: PositiveInt = 3
    """Channels of the values: 1 for grey, 3 for RGB."""
    num_tokens: PositiveInt = 256
    """R, the number of tokens of a representation."""
    latent_dim: PositiveInt = 512
    """D, the width of a token."""
    encoder: EncoderSpec
    """The hypernetwork, from signals to latents."""
    decoder: DecoderSpec
    """The shared INR, from coordinates and latents to values."""
    signal: SignalSpec | None = None
    """What the values mean; null takes it from the data in training, and is images otherwise."""
    missing: bool = False
    """Values may be missing (NaN): the encoder then gets 0 for them, and an extra channel that says which are present."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "AutoencoderSpec":
        self.encoder.check(len(self.image_shape))
        self.decoder.check(self.channels, self.num_tokens, self.latent_dim, len(self.image_shape))
        if isinstance(self.encoder, CloudFitSpec):
            self.encoder.check_cloud(self.decoder.position_dim, self.num_tokens, self.image_shape)
        # num_axes is written out, as in earlier versions: their runs can be resumed, and equal models have equal configs.
        return self.model_copy(update={"decoder": self.decoder.with_axes(len(self.image_shape))})

    @property
    def image_shape(self) -> tuple[int, ...]:
        """One length per axis: (height, width) for images."""
        return grid_of(self.image_size)

    @property
    def tokens_at_image_size(self) -> int:
        """Tokens of a signal of `image_size`: `num_tokens`, or fewer where larger signals have more (encoder.share)."""
        if isinstance(self.encoder, CloudFitSpec):
            assert isinstance(self.decoder, AnchoredSpec)  # checked by the encoder's spec
            pixels, neighbours = math.prod(self.image_shape), self.decoder.num_neighbours
            return num_anchors(pixels, self.num_tokens, self.encoder.share, neighbours)
        return self.num_tokens


class DenoiserArchitecture(Spec):
    """The arguments of `LatentDenoiser` that a run chooses; the others follow from the latents and the data."""

    dim: PositiveInt = 512
    """Width of the transformer."""
    depth: PositiveInt = 8
    """Transformer blocks."""
    num_heads: PositiveInt = 8
    """Attention heads."""
    head_dim: PositiveInt = 64
    """Width of a head."""
    mlp_dim: PositiveInt = 2048
    """Hidden width of the feed-forward layers."""
    conditioning: Literal["token", "adaln"] = "adaln"
    """How time and class enter: as tokens of the sequence (ANR), or through adaptive norms (adaLN-zero, DiT)."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """Kind of feed-forward layer."""
    norm: Literal["layer", "rms"] = "layer"
    """Kind of normalisation."""
    qk_norm: bool = False
    """RMS-normalise queries and keys."""
    routed: Fraction = 0.0
    """Share of the tokens that skip all blocks but the first and the last in a training step, which is then cheaper (TREAD)."""
    position_scale: PositiveFloat = 1.0
    """Standard deviation of the positions of standardised sets, whose features have 1. Above 1, sampling decides positions before features, and the loss weighs them by its square."""


class DenoiserSpec(DenoiserArchitecture):
    """All arguments of `LatentDenoiser`."""

    num_tokens: PositiveInt
    """R, the number of tokens."""
    latent_dim: PositiveInt
    """D, the width of a token."""
    num_classes: NonNegativeInt = 0
    """Number of classes; 0 is unconditional."""
    position_dim: NonNegativeInt = 0
    """Leading channels of a token that are its position; 0 is tokens with slots."""

    @model_validator(mode="after")
    def _fits(self) -> "DenoiserSpec":
        if self.routed and self.depth < 3:
            raise ValueError(
                f"routed needs a depth of at least 3, for blocks to skip; got routed {self.routed} and depth {self.depth}"
            )
        if self.position_scale != 1 and not self.position_dim:
            raise ValueError(
                f"position_scale is for tokens with positions, and these have slots; got {self.position_scale}: leave it out"
            )
        return self


class FieldModelSpec(Spec):
    """The arguments of `NeuralField`."""

    field: FieldSpec
    """The network."""
    shape: list[PositiveInt] = Field(min_length=1)
    """The signal's size, one number per axis."""
    channels: PositiveInt = 3
    """Channels of the values."""
    signal: SignalSpec | None = None
    """What the values mean; null is images."""


class GeneratorArchitecture(Spec):
    """The arguments of `CoordinateGenerator` that a run chooses; the others follow from the target and the data."""

    noise_dim: PositiveInt = 512
    """Width of the noise vector."""
    widths: list[PositiveInt] = Field(default=[512, 512, 256, 256, 256, 128, 128, 32], min_length=2)
    """Output widths of the first layer and of every residual block."""
    tile: PositiveInt | list[PositiveInt] = Field(default=[4, 8, 8, 4, 4, 4, 4])
    """Weight matrices along every axis in the blocks' expert layers, one number or one per block; 1 is a Linear."""
    cells: list[PositiveInt] = Field(default=[4, 8, 16, 32, 64, 128, 256])
    """Cells of each block's grid along every axis."""
    tiles_start: Literal["apart", "equal"] = "apart"
    """Draw every matrix of a layer separately, as in the paper, or start with equal ones, like a network without tiles."""
    noise_gain: PositiveFloat = 1.0
    """Factor on the noise's initial weights; 1 is the paper's initialisation, one Linear of place and noise."""
    num_frequencies: Frequencies = 8
    """Frequencies of the positional encoding on each axis, in addition to the coordinates: 1, 2, 4, ... periods over
    [-1, 1]."""
    embedding_dim: NonNegativeInt = 0
    """Channels of a learned coordinate embedding (the CE baseline); 0 disables it."""
    embedding_size: PositiveInt | list[PositiveInt] = 256
    """Cells of the embedding along every axis."""

    @property
    def tiles(self) -> list[int]:
        """Matrices along an axis, for every block."""
        return [self.tile] * (len(self.widths) - 1) if isinstance(self.tile, int) else self.tile

    @model_validator(mode="after")
    def _one_for_each_block(self) -> "GeneratorArchitecture":
        blocks = len(self.widths) - 1
        for name, numbers in (("tile", self.tiles), ("cells", self.cells)):
            if len(numbers) != blocks:
                raise ValueError(f"{name} must have one number per width after the first, {blocks}; got {len(numbers)}")
        return self


class GeneratorSpec(GeneratorArchitecture):
    """All arguments of `CoordinateGenerator`."""

    num_axes: PositiveInt
    """Axes of the coordinates."""
    channels: PositiveInt
    """Channels of the values."""
    num_classes: NonNegativeInt = 0
    """Number of classes; 0 is unconditional."""


class DiscriminatorArchitecture(Spec):
    """The arguments of `ImageDiscriminator` and `TokenDiscriminator` that a run chooses."""

    width: PositiveInt = 64
    """Channels after the first convolution; doubled by each further one, up to 8 times the width."""
    depth: Annotated[int, Field(ge=2)] = 5
    """Convolutions with kernel 3 and stride 2, the last one included."""
    scales: PositiveInt = 2
    """Number of sizes at which images are judged, each half the previous one."""
    token_width: PositiveInt = 256
    """Hidden width of the token discriminator."""
    token_depth: Annotated[int, Field(ge=2)] = 4
    """Linear layers of the token discriminator, the last one included."""
    spectral_norm: bool = True
    """Divide every weight matrix by its largest singular value, as in the paper; without it use R1 to bound them."""


class ImageDiscriminatorSpec(Spec):
    """All arguments of `ImageDiscriminator`."""

    channels: PositiveInt = 3
    """Channels of the signals."""
    num_classes: NonNegativeInt = 0
    """Number of classes; 0 is unconditional."""
    width: PositiveInt = 64
    """Channels after the first convolution."""
    depth: Annotated[int, Field(ge=2)] = 5
    """Number of convolutions."""
    scales: PositiveInt = 2
    """Number of sizes at which signals are judged."""
    spectral_norm: bool = True
    """Normalise every weight."""
    num_axes: PositiveInt = 2
    """Axes of the signals."""


class TokenDiscriminatorSpec(Spec):
    """All arguments of `TokenDiscriminator`."""

    num_tokens: PositiveInt
    """R, the number of tokens."""
    latent_dim: PositiveInt
    """D, the width of a token."""
    num_classes: NonNegativeInt = 0
    """Number of classes; 0 is unconditional."""
    width: PositiveInt = 256
    """Width of the hidden layers."""
    depth: Annotated[int, Field(ge=2)] = 4
    """Number of linear layers."""
    spectral_norm: bool = True
    """Normalise every weight."""


class ClassifierArchitecture(Spec):
    """The convolutional classifier behind fd_classifier."""

    width: Annotated[int, Field(gt=0, multiple_of=8)] = 64
    """Channels of the first stage, a multiple of 8; they double with every halving of the image."""
    stem_stride: PositiveInt = 1
    """Stride of the first convolution: with 2, all stages have half the resolution and a quarter of the operations."""
    stages: PositiveInt = 2
    """Number of resolutions, each half the previous one."""
    depth: PositiveInt = 1
    """Blocks at each resolution, 1 with blocks pooled."""
    norm: Literal["group", "batch"] = "group"
    """Normalisation: of each signal by itself, or of the batch, which is faster and a little better from 64 signals on."""
    dropout: Fraction = 0.1
    """Dropout before the last layer."""
    mirrored: bool = False
    """In evaluation, average the features of an image and of its mirror image, at twice the operations."""
    blocks: Literal["residual", "pooled"] = "residual"
    """Residual blocks; or pairs of convolutions with a max pool in between, on whitened patches that are not trained, which train faster (Jordan, 2024)."""

    @model_validator(mode="after")
    def _pooled_blocks_have_one_form(self) -> "ClassifierArchitecture":
        for name in ("depth", "stem_stride") if self.blocks == "pooled" else ():
            if getattr(self, name) != 1:
                raise ValueError(f"{name} must be 1 with blocks pooled; got {getattr(self, name)}")
        return self


class ClassifierSpec(ClassifierArchitecture):
    """All arguments of `ImageClassifier`."""

    image_size: GridSize
    """The grid that it is trained on: one number for a square image, or one length per axis, up to three."""
    channels: PositiveInt
    """Channels of the values."""
    num_classes: PositiveInt
    """Number of classes."""
    signal: SignalSpec | None = None
    """What the values mean; null is images."""

    @model_validator(mode="after")
    def _only_images_are_mirrored(self) -> "ClassifierSpec":
        if self.mirrored and self.signal is not None and self.signal.type != "image":
            raise ValueError(f"mirrored is for images; got signals of type {self.signal.type}: set it to false")
        return self

    @property
    def smallest_side(self) -> int:
        """The shortest axis that the halvings leave a point of."""
        if self.blocks == "pooled":
            return 2**self.stages + 1  # all stages halve, and whitened patches cost a point
        return self.stem_stride * (2 ** (self.stages - 1) - 1) + 1

    @model_validator(mode="after")
    def _has_stages(self) -> "ClassifierSpec":
        smallest = self.smallest_side
        if min(grid_of(self.image_size)) < smallest:
            raise ValueError(
                f"image_size must be at least {smallest} along every axis for {self.stages} stages of {self.blocks} blocks, "
                f"which halve it, and stem_stride {self.stem_stride}; got {self.image_size}"
            )
        return self


class SizeClassifierArchitecture(Spec):
    """The MLP of a classifier of sizes."""

    widths: list[PositiveInt] = Field(default=[64, 64, 64])
    """Widths of the hidden layers."""


class SizeClassifierSpec(SizeClassifierArchitecture):
    """All arguments of `SizeClassifier`."""

    num_axes: PositiveInt
    """Numbers in a size, one per axis."""
    num_classes: PositiveInt
    """Number of classes."""


class CloudClassifierArchitecture(Spec):
    """The point transformer of a classifier of clouds."""

    attention: Literal["neighbours", "grid"] = "neighbours"
    """Attention among nearest neighbours (Point Transformer), or along a curve through a fixed grid (Point Transformer V3)."""
    widths: list[PositiveInt] = Field(default=[64, 128, 256], min_length=1)
    """Width of every stage; between stages the cloud is thinned to half, or pooled over cells twice as wide."""
    depths: list[PositiveInt] = Field(default=[1, 2, 2], min_length=1)
    """Blocks of every stage."""
    neighbours: PositiveInt = 16
    """For attention neighbours: nearest points that a point attends to, itself included."""
    patch: PositiveInt = 32
    """For attention grid: points along the curve that attend to each other."""
    num_heads: PositiveInt = 8
    """For attention grid: attention heads."""
    dropout: Fraction = 0.3
    """Dropout before the last layer."""

    @model_validator(mode="after")
    def _stages(self) -> "CloudClassifierArchitecture":
        if len(self.widths) != len(self.depths):
            raise ValueError(
                f"widths and depths must both have one number per stage; got {len(self.widths)} and {len(self.depths)} numbers"
            )
        indivisible = [width for width in self.widths if width % self.num_heads]
        if self.attention == "grid" and indivisible:
            raise ValueError(f"widths must be multiples of num_heads, {self.num_heads}; got {indivisible[0]}")
        return self


class CloudClassifierSpec(CloudClassifierArchitecture):
    """All arguments of `CloudClassifier`."""

    num_tokens: PositiveInt
    """Points of the cloud of an image that covers [-1, 1]."""
    extent: PositiveFloat = 2.0
    """Largest absolute coordinate of the grid of attention grid."""
    latent_dim: PositiveInt
    """Numbers in a token, the position included."""
    position_dim: Annotated[int, Field(ge=1, le=3)]
    """Leading numbers of a token that are its position."""
    num_classes: PositiveInt
    """Number of classes."""

    @model_validator(mode="after")
    def _features_left(self) -> "CloudClassifierSpec":
        if self.latent_dim <= self.position_dim:
            raise ValueError(
                f"latent_dim must be more than position_dim, {self.position_dim}, because a token needs features; got {self.latent_dim}"
            )
        return self
