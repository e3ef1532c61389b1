"""A small convolutional classifier: the feature network behind `fd_classifier`."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from genrep.models.loading import StrictLoading
from genrep.models.specs import ClassifierSpec
from genrep.nn.convolution import average_pool_of, batch_norm_of, convolution_of
from genrep.signals import ImageSignalSpec
from genrep.specs import from_arguments, grid_of


class ResidualBlock(nn.Module):
    """Two convolutions of kernel size 3, each after a norm and SiLU, with a residual connection."""

    def __init__(self, channels: int, out_channels: int, num_axes: int, norm: str = "group"):
        super().__init__()
        convolution = convolution_of(num_axes)
        self.norm1 = _norm(norm, channels, num_axes)
        self.conv1 = convolution(channels, out_channels, 3, padding=1)
        self.norm2 = _norm(norm, out_channels, num_axes)
        self.conv2 = convolution(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Identity() if channels == out_channels else convolution(channels, out_channels, 1)

    def forward(self, maps: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch out *shape"]:
        hidden = self.conv1(F.silu(self.norm1(maps)))
        return self.skip(maps) + self.conv2(F.silu(self.norm2(hidden)))


class Halve(nn.Module):
    """Halves the resolution: the mean of two neighbours along every axis."""

    def __init__(self, num_axes: int):
        super().__init__()
        self.pool = average_pool_of(num_axes)

    def forward(self, maps: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch channels *halved"]:
        return self.pool(maps, 2)


class ImageClassifier(StrictLoading, ModelMixin, ConfigMixin):
    """Images, or signals of one or three axes, to class logits; the features are the averaged maps before the last layer.

    Args:
        image_size: the grid it was trained on: the side of square images, or one length per axis.
        channels: channels of the values: 1 or 3 for images.
        num_classes: number of classes.
        width: channels of the first stage, a multiple of 8; they double with every halving of the image.
        stages: number of resolutions.
        depth: residual blocks per resolution.
        norm: "group" or "batch".
        stem_stride: stride of the first convolution, whose kernel has 2 stride + 1 values along every axis.
        dropout: dropout rate before the last layer.
        mirrored: in evaluation, average the features of an image and of its mirror image.
        signal: `{"type": ..., ...}`, one of `genrep.signals`: what the values mean; None means images.

    Raises:
        InputError: an unknown key, a wrong type, an impossible value, signals of more than three axes, or other signals
            than images with `mirrored`.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int | Sequence[int],
        channels: int,
        num_classes: int,
        width: int = 64,
        stages: int = 2,
        dropout: float = 0.1,
        signal: Mapping[str, Any] | Any | None = None,
        depth: int = 1,
        norm: str = "group",
        stem_stride: int = 1,
        mirrored: bool = False,
    ):
        super().__init__()
        spec = from_arguments(ClassifierSpec, locals(), where=type(self).__name__)
        self.signal = (spec.signal or ImageSignalSpec()).build()
        self.image_shape = grid_of(spec.image_size)
        self.mirrored = mirrored
        num_axes = len(self.image_shape)
        kernel = 2 * stem_stride + 1
        self.stem = convolution_of(num_axes)(channels, width, kernel, stride=stem_stride, padding=stem_stride)
        layers: list[nn.Module] = []
        for stage in range(stages):
            if stage:
                layers.append(Halve(num_axes))
            channels_in, channels_out = width * 2 ** max(0, stage - 1), width * 2**stage
            layers.append(ResidualBlock(channels_in, channels_out, num_axes, norm))
            layers += [ResidualBlock(channels_out, channels_out, num_axes, norm) for _ in range(depth - 1)]
        self.blocks = nn.Sequential(*layers)
        self.num_features = width * 2 ** (stages - 1)
        self.norm = _norm(norm, self.num_features, num_axes)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.num_features, num_classes)

    def features(self, images: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch features"]:
        """Images in [-1, 1] => features."""
        if self.mirrored and not self.training:
            return (self._features(images) + self._features(images.flip(-1))) / 2
        return self._features(images)

    def _features(self, images: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch features"]:
        """The features of images as they are."""
        return F.silu(self.norm(self.blocks(self.stem(images)))).flatten(2).mean(-1)

    def forward(self, images: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch classes"]:
        return self.head(self.dropout(self.features(images)))


def _norm(kind: str, channels: int, num_axes: int) -> nn.Module:
    return nn.GroupNorm(8, channels) if kind == "group" else batch_norm_of(num_axes)(channels)
