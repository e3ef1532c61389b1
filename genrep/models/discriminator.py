"""Discriminators of images, patch by patch at several scales (LoE, supplement E), and of token sets."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from genrep.models.loading import StrictLoading
from genrep.models.specs import ImageDiscriminatorSpec, TokenDiscriminatorSpec
from genrep.nn.convolution import average_pool_of, convolution_of
from genrep.specs import from_arguments


def _started(layer: Any, normalize: bool) -> nn.Module:
    """A layer with the paper's initial weights (supplement A) and, if `normalize`, spectral normalisation."""
    nn.init.kaiming_uniform_(layer.weight, a=0.2)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return parametrizations.spectral_norm(layer) if normalize else layer


class Projection(nn.Module):
    """A logit from features plus their inner product with an embedding of the class (projection discriminator)."""

    def __init__(self, features: int, num_classes: int, last: nn.Module, normalize: bool):
        super().__init__()
        self.last = last
        self.of_class: nn.Module | None = None
        if num_classes:
            embedding = nn.Embedding(num_classes, features)
            # Embeddings of length 1 keep the inner product the size of the features; N(0, 1) would make it √features larger.
            if not normalize:
                nn.init.normal_(embedding.weight, std=features**-0.5)
            self.of_class = parametrizations.spectral_norm(embedding) if normalize else embedding

    def forward(self, features: Tensor, class_labels: Int[Tensor, " batch"] | None) -> Tensor:
        """From features `[B, F, ...]` to logits `[B, 1, ...]`."""
        logits = self.last(features)
        if self.of_class is None or class_labels is None:
            return logits
        pooled = features.flatten(2).mean(-1) if features.ndim > 2 else features
        agreement = (self.of_class(class_labels) * pooled).sum(1)  # one number per sample, added to all of its patches
        return logits + agreement.view(-1, *[1] * (logits.ndim - 1))


class PatchDiscriminator(nn.Module):
    """Convolutions with kernel 3 and stride 2, leaky ReLU, optional spectral norm; one logit per patch."""

    def __init__(self, channels: int, num_classes: int, width: int, depth: int, normalize: bool, num_axes: int = 2):
        super().__init__()
        convolution = convolution_of(num_axes)
        widths = [channels, *[width * 2 ** min(k, 3) for k in range(depth - 1)]]
        self.layers = nn.ModuleList(
            _started(convolution(a, b, 3, 2, 1), normalize) for a, b in itertools.pairwise(widths)
        )
        last = _started(convolution(widths[-1], 1, 3, 2, 1), normalize)
        self.head = Projection(widths[-1], num_classes, last, normalize)

    def forward(self, images: Tensor, class_labels: Tensor | None) -> Float[Tensor, "batch patches"]:
        for layer in self.layers:
            images = F.leaky_relu(layer(images), 0.2)
        return self.head(images, class_labels).flatten(1)


class ImageDiscriminator(StrictLoading, ModelMixin, ConfigMixin):
    """One patch discriminator for the full image and one for each halving of it.

    Args:
        channels: channels of the images.
        num_classes: classes, for projection; 0 is unconditional.
        width: channels after the first convolution; doubled by each further one, up to 8 times the width.
        depth: number of convolutions, the last one included.
        scales: number of sizes, each half the previous one.
        spectral_norm: normalise every weight.
        num_axes: axes of the signals: 2 for images, up to 3.
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 3,
        num_classes: int = 0,
        width: int = 64,
        depth: int = 5,
        scales: int = 2,
        spectral_norm: bool = True,
        num_axes: int = 2,
    ):
        super().__init__()
        from_arguments(ImageDiscriminatorSpec, locals(), where=type(self).__name__)
        self.pool = average_pool_of(num_axes)
        self.scales = nn.ModuleList(
            PatchDiscriminator(channels, num_classes, width, depth, spectral_norm, num_axes) for _ in range(scales)
        )

    def forward(
        self, images: Float[Tensor, "batch channels *shape"], class_labels: Int[Tensor, " batch"] | None = None
    ) -> list[Float[Tensor, "batch patches"]]:
        """One logit per patch, as a list over scales; high means real."""
        logits = []
        for number, scale in enumerate(self.scales):
            if number:
                images = self.pool(images, 2, ceil_mode=True)  # odd sizes keep their last row and column
            logits.append(scale(images, class_labels))
        return logits


class TokenDiscriminator(StrictLoading, ModelMixin, ConfigMixin):
    """One logit per token set, by linear layers over all numbers of the set.

    Args:
        num_tokens, latent_dim: shape of the latents.
        num_classes: classes, for projection; 0 is unconditional.
        width: width of the hidden layers.
        depth: number of linear layers, the last one included.
        spectral_norm: normalise every weight.
    """

    @register_to_config
    def __init__(
        self,
        num_tokens: int,
        latent_dim: int,
        num_classes: int = 0,
        width: int = 256,
        depth: int = 4,
        spectral_norm: bool = True,
    ):
        super().__init__()
        from_arguments(TokenDiscriminatorSpec, locals(), where=type(self).__name__)
        widths = [num_tokens * latent_dim, *[width] * (depth - 1)]
        self.layers = nn.ModuleList(_started(nn.Linear(a, b), spectral_norm) for a, b in itertools.pairwise(widths))
        self.head = Projection(width, num_classes, _started(nn.Linear(width, 1), spectral_norm), spectral_norm)

    def forward(
        self, latents: Float[Tensor, "batch tokens latent"], class_labels: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch 1"]:
        """One logit per set of standardised latents, `[B, 1]`; high means real."""
        hidden = latents.flatten(1)
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), 0.2)
        return self.head(hidden, class_labels)


class Discriminators(nn.Module):
    """One discriminator for each view of a sample: its signal, its latents, or both.

    Args:
        channels: channels of the signals; None for no discriminator of signals.
        latent_shape: (R, D) of the latents; None for no discriminator of latents.
        num_classes, width, depth, scales, token_width, token_depth, spectral_norm, num_axes: as in the discriminators.
    """

    def __init__(
        self,
        channels: int | None,
        latent_shape: tuple[int, int] | None,
        num_classes: int,
        *,
        width: int,
        depth: int,
        scales: int,
        token_width: int,
        token_depth: int,
        spectral_norm: bool = True,
        num_axes: int = 2,
    ):
        super().__init__()
        self.of_images = (
            None
            if channels is None
            else ImageDiscriminator(channels, num_classes, width, depth, scales, spectral_norm, num_axes)
        )
        self.of_latents = (
            None
            if latent_shape is None
            else TokenDiscriminator(*latent_shape, num_classes, token_width, token_depth, spectral_norm)
        )

    def forward(
        self, views: Sequence[Tensor], class_labels: Tensor | None = None
    ) -> list[Float[Tensor, "batch logits"]]:
        """Logits for the views: signals `[B, C, *shape]`, then standardised latents `[B, R, D]`, as far as both are judged."""
        logits = []
        views = list(views)
        if self.of_images is not None:
            logits += self.of_images(views.pop(0), class_labels)
        if self.of_latents is not None:
            logits.append(self.of_latents(views.pop(0), class_labels))
        return logits
