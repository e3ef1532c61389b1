"""Hypernetworks, from signals to latents: a table of their specs. A new encoder is a spec here and a file in this folder.

The decoder's `token_groups` tell a spec's `build` which consecutive tokens share an output head; None is one group.
"""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from genrep.specs import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Seed, Spec

if TYPE_CHECKING:
    from torch import nn


PatchSize = PositiveInt | list[PositiveInt]


class BaseEncoderSpec(Spec):
    """Fields and checks common to all encoders."""

    patch_size: PatchSize

    def check(self, num_axes: int) -> None:
        """ValueError if the encoder does not fit signals with `num_axes` axes."""
        if isinstance(self.patch_size, list) and len(self.patch_size) != num_axes:
            raise ValueError(
                f"patch_size must be one number, or one per axis; got {len(self.patch_size)} numbers for {num_axes} axes"
            )


class CrossAttentionSpec(BaseEncoderSpec):
    """ANR: a transformer encoder over patches, and a transformer decoder from learned queries."""

    type: Literal["cross_attention"]
    patch_size: PatchSize = 10
    """Edge of a patch in pixels, one number or one per axis; the signal is zero-padded to whole patches."""
    dim: PositiveInt = 512
    """Width of the transformer."""
    encoder_depth: NonNegativeInt = 6
    """Transformer blocks over the patches."""
    decoder_depth: PositiveInt = 6
    """Transformer blocks over the queries."""
    num_heads: PositiveInt = 6
    """Attention heads."""
    head_dim: PositiveInt = 64
    """Width of a head."""
    mlp_dim: PositiveInt = 3072
    """Hidden width of the feed-forward layers."""

    def build(
        self,
        image_size: tuple[int, ...],
        channels: int,
        num_tokens: int,
        latent_dim: int,
        token_groups: list[int] | None = None,
    ) -> "nn.Module":
        from genrep.encoders.cross_attention import CrossAttentionEncoder

        options = self.model_dump(exclude={"type"})
        return CrossAttentionEncoder(image_size, channels, num_tokens, latent_dim, token_groups, **options)


class JointAttentionSpec(BaseEncoderSpec):
    """TransINR, IPC, locality-aware: one transformer over patches and learned tokens together."""

    type: Literal["joint_attention"]
    patch_size: PatchSize = 9
    """Edge of a patch in pixels, one number or one per axis; the signal is zero-padded to whole patches."""
    dim: PositiveInt = 768
    """Width of the transformer."""
    depth: PositiveInt = 6
    """Transformer blocks."""
    num_heads: PositiveInt = 12
    """Attention heads."""
    head_dim: PositiveInt = 64
    """Width of a head."""
    mlp_dim: PositiveInt = 3072
    """Hidden width of the feed-forward layers."""
    dropout: Fraction = 0.0
    """Dropout on the residual branches; the published code uses 0.1."""

    def build(
        self,
        image_size: tuple[int, ...],
        channels: int,
        num_tokens: int,
        latent_dim: int,
        token_groups: list[int] | None = None,
    ) -> "nn.Module":
        from genrep.encoders.joint_attention import JointAttentionEncoder

        options = self.model_dump(exclude={"type"})
        return JointAttentionEncoder(image_size, channels, num_tokens, latent_dim, token_groups, **options)


def num_anchors(pixels: int, num_tokens: int, share: float | None, num_neighbours: int = 1) -> int:
    """Anchors of an image: `num_tokens`; or `share` of its pixels, rounded down, but at least a coordinate's neighbours."""
    return num_tokens if share is None else max(num_neighbours, int(share * pixels))


class CloudFitSpec(Spec):
    """ARC: no network. Anchors are drawn on every image, and their features are fitted under the decoder."""

    type: Literal["fit"]
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Anchors of an image as a share of its pixels (0.05 in the paper), so that larger images get more; num_tokens is then the most that an image may have. Null gives every image num_tokens."""
    steps: PositiveInt = 500
    """Steps of Adam."""
    lr: PositiveFloat = 5e-3
    """Adam's learning rate."""
    betas: list[Fraction] = Field(default=[0.9, 0.999], min_length=2, max_length=2)
    """Adam's averaging factors for gradients and their squares. The pixels of a step are few, but the same ones return
    after `parts` steps, so a short average of squares, (0.9, 0.9), converges in fewer steps."""
    schedule: Literal["constant", "cosine", "trapezoid"] = "constant"
    """Learning rate: constant, as in the paper; half a cosine down to 0; or constant for two thirds of the steps, then linear
    down to 0."""
    parts: PositiveInt = 4
    """Number of parts that an image's pixels, shuffled once, are cut into; steps take the parts in turn."""
    coords: Literal["grid", "uniform"] = "grid"
    """Where render and image are compared: at the pixel centres, or anywhere within the pixels, with the image interpolated."""
    draws: PositiveInt = 4
    """For coords uniform: points drawn in every pixel; steps take them in turn."""
    start: NonNegativeFloat = 1e-4
    """Features start uniform in [-start, start]."""
    penalty: NonNegativeFloat = 0.0
    """Weight of the mean squared feature in the loss, in the decoder's training as well. Many clouds render as the same image;
    a penalty prefers the smallest of them."""
    jitter: bool = False
    """Place anchors anywhere within their pixels instead of at the centres."""
    flat: Literal["filled", "masked"] = "filled"
    """If fewer pixels than anchors have a gradient: draw the remaining anchors from flat pixels, or mask them."""
    seed: Seed = 0
    """Seed of the random numbers, together with a hash of the image's values and the number of the fit (`latents.fits`)."""

    def check(self, num_axes: int) -> None:
        """Does nothing: any number of axes is allowed."""

    def check_cloud(self, position_dim: int, num_tokens: int, image_size: tuple[int, ...]) -> None:
        """ValueError unless the decoder's tokens have positions and the image has enough pixels for its anchors and parts."""
        if not position_dim:
            raise ValueError(
                "encoder fit needs a decoder whose tokens have positions, and the tokens of this one have slots: use decoder anchored"
            )
        pixels = math.prod(image_size)
        anchors = num_anchors(pixels, num_tokens, self.share)
        if anchors > num_tokens:
            raise ValueError(
                f"num_tokens must be at least {anchors}, encoder.share {self.share} of the {pixels} "
                f"pixels of image_size; got {num_tokens}: raise num_tokens, or lower encoder.share"
            )
        if self.share is None and num_tokens > pixels:
            raise ValueError(
                f"num_tokens must be at most {pixels}, the pixels that anchors are drawn from; got {num_tokens}: lower num_tokens"
            )
        if self.parts > pixels:
            raise ValueError(f"encoder.parts must be at most {pixels}, the pixels of an image; got {self.parts}")

    def build(
        self,
        image_size: tuple[int, ...],
        channels: int,
        num_tokens: int,
        latent_dim: int,
        token_groups: list[int] | None = None,
    ) -> "nn.Module":
        from genrep.encoders.fit import CloudFit

        return CloudFit(num_tokens, latent_dim, image_size, **self.model_dump(exclude={"type"}))


EncoderSpec = Annotated[CrossAttentionSpec | JointAttentionSpec | CloudFitSpec, Field(discriminator="type")]
"""All encoders, discriminated by `type`."""
