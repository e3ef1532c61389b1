"""Shared INRs, from coordinates and latents to values: a table of their specs. A new decoder is a spec here and a file."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from genrep.specs import Fraction, PositiveFloat, PositiveInt, Spec

if TYPE_CHECKING:
    from genrep.decoders.base import Decoder


class BaseDecoderSpec(Spec):
    """Properties and checks common to all decoders."""

    def check(self, channels: int, num_tokens: int, latent_dim: int, num_axes: int) -> None:
        """ValueError if the decoder does not fit these latents, channels and axes of the signal."""

    def with_axes(self, num_axes: int) -> "BaseDecoderSpec":
        """This spec with its `num_axes` filled in from the signal, if it has that field and left it to the signal."""
        if getattr(self, "num_axes", num_axes) is not None:
            return self
        return self.model_copy(update={"num_axes": num_axes})

    @property
    def position_dim(self) -> int:
        """Leading channels of a token that are its position; 0 if tokens have slots, as explained in `Decoder`."""
        return 0

    def token_groups(self, channels: int, num_tokens: int) -> list[int]:
        """Sizes of the groups of consecutive tokens that share an output head in the encoder."""
        return [num_tokens]


class LocalizedAttentionSpec(BaseDecoderSpec):
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
    """m of L-softmax; null is 0.384 / tokens, which is the paper's 0.0015 at 256 tokens."""

    def build(self, image_size: tuple[int, ...], channels: int, num_tokens: int, latent_dim: int) -> "Decoder":
        from genrep.decoders.localized_attention import LocalizedAttentionDecoder

        options = self.model_dump(exclude={"type"}) | {"num_axes": len(image_size)}
        # The published 1024 at 128 pixels is 16 times the Nyquist limit: decoding between the grid's points aliases unless
        # coordinates are jittered in training. The default is the limit itself.
        if self.max_frequency is None:
            options["max_frequency"] = max(1.0, max(image_size) / 2)
        # 0.384 = 0.0015 × 256 = 0.003 × 128, the published settings for images and for NeRF.
        if self.threshold is None:
            options["threshold"] = 0.384 / num_tokens
        return LocalizedAttentionDecoder(channels, latent_dim, **options)


Bandwidth = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class MultiBandSpec(BaseDecoderSpec):
    """Locality-aware: cross-attention from coordinates to tokens, then modulation in several frequency bands."""

    type: Literal["multiband"]
    hidden_dim: PositiveInt = 256
    """d, the width of the query, the modulation and the hidden layers."""
    num_features: PositiveInt = 256
    """d_f, Fourier features of a coordinate."""
    bandwidths: list[Bandwidth] = Field(default=[128.0, 32.0], min_length=1)
    """Highest frequency of each level; the first level passes through all layers. For `modulation: multiband`."""
    query_bandwidth: Bandwidth = 16.0
    """Highest frequency of the query."""
    num_heads: PositiveInt = 2
    """Heads of the cross-attention. For `aggregation: attention`."""
    num_axes: PositiveInt | None = None
    """Axes of the coordinates: null is the signal's number, 2 for images; 6 for rays (Plücker)."""
    aggregation: Literal["attention", "composed"] = "attention"
    """Selective token aggregation, or IPC's composed weight instead (table 3, w/o STA)."""
    modulation: Literal["multiband", "mlp"] = "multiband"
    """Multi-band feature modulation, or a plain MLP instead (table 3, w/o multiFM)."""
    mlp_depth: PositiveInt = 3
    """Linear layers of the plain MLP, the output layer included. For `modulation: mlp`."""

    @model_validator(mode="after")
    def _consistent(self) -> "MultiBandSpec":
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim must be a multiple of num_heads; got {self.hidden_dim} and {self.num_heads}")
        return self

    def check(self, channels: int, num_tokens: int, latent_dim: int, num_axes: int) -> None:
        _enough_features(self.num_features, self.num_axes or num_axes)
        if self.aggregation == "composed":
            _fan_in(latent_dim, self.hidden_dim, "aggregation composed")

    def build(self, image_size: tuple[int, ...], channels: int, num_tokens: int, latent_dim: int) -> "Decoder":
        from genrep.decoders.multiband import MultiBandDecoder

        options = self.model_dump(exclude={"type"}) | {"num_axes": self.num_axes or len(image_size)}
        return MultiBandDecoder(channels, latent_dim, num_tokens, **options)


class ModulatedMLPSpec(BaseDecoderSpec):
    """Fields common to the MLPs of IPC and TransINR."""

    hidden_dim: PositiveInt = 256
    """Width of the MLP; a token holds this many weights, so latent_dim must equal it."""
    depth: Annotated[int, Field(ge=2)] = 5
    """Linear layers, the output layer included."""
    num_features: PositiveInt = 256
    """Fourier features of a coordinate."""
    bandwidth: Bandwidth = 128.0
    """Highest frequency of the features."""
    num_axes: PositiveInt | None = None
    """Axes of the coordinates; null is the signal's number, 2 for images."""

    def check(self, channels: int, num_tokens: int, latent_dim: int, num_axes: int) -> None:
        _enough_features(self.num_features, self.num_axes or num_axes)


class IPCSpec(ModulatedMLPSpec):
    """IPC: an MLP whose second weight is composed from the tokens; the other weights are shared."""

    type: Literal["ipc"]

    def check(self, channels: int, num_tokens: int, latent_dim: int, num_axes: int) -> None:
        super().check(channels, num_tokens, latent_dim, num_axes)
        _fan_in(latent_dim, self.hidden_dim, "decoder ipc")

    def build(self, image_size: tuple[int, ...], channels: int, num_tokens: int, latent_dim: int) -> "Decoder":
        from genrep.decoders.modulated_mlp import IPCDecoder

        options = self.model_dump(exclude={"type"}) | {"num_axes": self.num_axes or len(image_size)}
        return IPCDecoder(channels, num_tokens, **options)


class TransINRSpec(ModulatedMLPSpec):
    """TransINR: an MLP whose weights are all modulated by the tokens, one token per group of output units.

    In the published code, and in IPC's, the tokens of each layer have a separate LayerNorm and Linear in the encoder.
    """

    type: Literal["transinr"]
    num_groups: PositiveInt = 64
    """Groups of output units per layer, one token each; a layer with fewer units has one group per unit."""
    shared_head: bool = False
    """Share one encoder head between the tokens of all layers, as in earlier versions, instead of one head per layer."""

    @model_validator(mode="after")
    def _equal_groups(self) -> "TransINRSpec":
        if self.hidden_dim > self.num_groups and self.hidden_dim % self.num_groups:
            raise ValueError(
                f"hidden_dim must be a multiple of num_groups; got {self.hidden_dim} and {self.num_groups}"
            )
        return self

    def _groups_of_layers(self, channels: int) -> list[int]:
        # 64 groups for an output layer of 3 channels would leave 61 tokens without a unit.
        return [min(self.num_groups, self.hidden_dim)] * (self.depth - 1) + [min(self.num_groups, channels)]

    def token_groups(self, channels: int, num_tokens: int) -> list[int]:
        return [num_tokens] if self.shared_head else self._groups_of_layers(channels)

    def check(self, channels: int, num_tokens: int, latent_dim: int, num_axes: int) -> None:
        super().check(channels, num_tokens, latent_dim, num_axes)
        groups = self._groups_of_layers(channels)
        if num_tokens != sum(groups):
            raise ValueError(
                f"decoder transinr does not fit {num_tokens} tokens: its {self.depth} layers have {' + '.join(map(str, groups))} "
                f"groups; set num_tokens to {sum(groups)}, or change num_groups or depth"
            )
        if channels % groups[-1]:
            raise ValueError(
                f"decoder transinr needs channels that are a multiple of its {groups[-1]} groups; got {channels}: change "
                "num_groups"
            )
        # A token must reach the widest layer's inputs; narrower layers use its leading channels.
        axes = self.num_axes or num_axes
        num_features = 2 * axes * (self.num_features // (2 * axes))
        _fan_in(latent_dim, max(self.hidden_dim, num_features), "decoder transinr")

    def build(self, image_size: tuple[int, ...], channels: int, num_tokens: int, latent_dim: int) -> "Decoder":
        from genrep.decoders.modulated_mlp import TransINRDecoder

        options = self.model_dump(exclude={"type", "shared_head"}) | {"num_axes": self.num_axes or len(image_size)}
        return TransINRDecoder(channels, **options)


class AnchoredSpec(BaseDecoderSpec):
    """ARC: an MLP over the latents anchored nearest to a coordinate. A token holds a position, then a feature."""

    type: Literal["anchored"]
    num_neighbours: PositiveInt = 4
    """n, the number of nearest anchors that a coordinate sees."""
    hidden_dim: PositiveInt | None = None
    """Width of the MLP; null is the width of its input, num_neighbours × latent_dim, as in the paper."""
    depth: PositiveInt = 2
    """Linear layers of the MLP, the output layer included."""
    offset_scale: PositiveFloat | None = None
    """Pixels in an offset of 1; null is the mean distance between anchors, (pixels / num_tokens)^(1 / axes)."""
    num_axes: PositiveInt | None = None
    """Axes of the coordinates, and so of the positions; null is the signal's number, 2 for images."""

    @property
    def position_dim(self) -> int:
        return self.num_axes or 2

    def check(self, channels: int, num_tokens: int, latent_dim: int, num_axes: int) -> None:
        if self.num_axes not in (None, num_axes):
            raise ValueError(
                f"decoder.num_axes must be {num_axes}, the axes of the signal; got {self.num_axes}: leave it out"
            )
        if num_tokens < self.num_neighbours:
            raise ValueError(
                f"num_tokens must be at least {self.num_neighbours}, decoder.num_neighbours; got {num_tokens}: raise num_tokens, "
                "or lower num_neighbours"
            )
        if latent_dim <= num_axes:
            raise ValueError(
                f"latent_dim must be more than {num_axes}, because the first {num_axes} numbers of a token are the anchor's position; "
                f"got {latent_dim}"
            )

    def build(self, image_size: tuple[int, ...], channels: int, num_tokens: int, latent_dim: int) -> "Decoder":
        from genrep.decoders.anchored import AnchoredDecoder

        return AnchoredDecoder(
            channels,
            latent_dim,
            num_neighbours=self.num_neighbours,
            hidden_dim=self.hidden_dim or self.num_neighbours * latent_dim,
            depth=self.depth,
            pixel=[2 / length for length in image_size],
            offset_scale=self.offset_scale or (math.prod(image_size) / num_tokens) ** (1 / len(image_size)),
        )


def _enough_features(num_features: int, num_axes: int) -> None:
    if num_features < 4 * num_axes:  # one frequency has no spacing from 1 to the bandwidth
        raise ValueError(
            f"decoder.num_features must be at least {4 * num_axes}, cosine and sine of two frequencies on {num_axes} axes; "
            f"got {num_features}"
        )


def _fan_in(latent_dim: int, fan_in: int, name: str) -> None:
    if latent_dim != fan_in:
        raise ValueError(
            f"{name} does not fit latents of width {latent_dim}: a token holds the {fan_in} input weights of a unit; "
            f"set latent_dim to {fan_in}, or change the decoder's widths"
        )


DecoderSpec = Annotated[
    LocalizedAttentionSpec | MultiBandSpec | IPCSpec | TransINRSpec | AnchoredSpec, Field(discriminator="type")
]
"""All decoders, discriminated by `type`."""
