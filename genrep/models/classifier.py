"""A small convolutional classifier: the feature network behind `fd_classifier`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from genrep.errors import InputError
from genrep.models.loading import StrictLoading
from genrep.models.specs import ClassifierSpec
from genrep.nn.convolution import average_pool_of, batch_norm_of, convolution_of, max_pool_of
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


class PooledBlock(nn.Module):
    """Halves the resolution between two convolutions of kernel size 3, each followed by a norm and GELU (Jordan, 2024)."""

    def __init__(self, channels: int, out_channels: int, num_axes: int, norm: str = "group"):
        super().__init__()
        convolution = convolution_of(num_axes)
        self.pool = max_pool_of(num_axes)
        # the norm would take a bias away again
        self.conv1 = convolution(channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = _norm(norm, out_channels, num_axes)
        self.conv2 = convolution(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = _norm(norm, out_channels, num_axes)
        for layer in (self.norm1, self.norm2):
            # a weight decay as strong as Muon's would shrink the gains until GELU is nearly linear
            layer.weight.requires_grad_(False)
        for kernels in (self.conv1.weight, self.conv2.weight):
            nn.init.dirac_(kernels.data[: kernels.shape[1]])  # the first channels out are those in

    def forward(self, maps: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch out *halved"]:
        hidden = F.gelu(self.norm1(self.pool(self.conv1(maps), 2)))
        return F.gelu(self.norm2(self.conv2(hidden)))


class WhitenedPatches(nn.Module):
    """The principal components of patches of two points per axis, scaled to unit variance, and their negatives; then GELU.

    They are measured once and not trained (Jordan, 2024); before that they are those of white noise, the points of the patch
    themselves. Maps are one point shorter than the signal along every axis.
    """

    VARIANCE = 5e-4
    """Added to the variances, so that components that hardly vary are not amplified."""

    def __init__(self, channels: int, num_axes: int):
        super().__init__()
        self.num_axes = num_axes
        self.num_components = channels * 2**num_axes
        self.convolution = convolution_of(num_axes)(channels, 2 * self.num_components, 2, bias=False)
        self.convolution.requires_grad_(False)
        self._set(torch.eye(self.num_components))

    @torch.no_grad()
    def measure(self, batches: Iterable[Float[Tensor, "_ channels *shape"]]) -> None:
        """Take the components of the patches of these signals, those of the largest variance first."""
        second_moments, count = torch.zeros(self.num_components, self.num_components, dtype=torch.float64), 0
        for signals in batches:
            patches = signals
            for axis in range(self.num_axes):
                patches = patches.unfold(axis + 2, 2, 1)
            patches = patches.movedim(1, self.num_axes + 1).reshape(-1, self.num_components).double()
            second_moments += patches.T @ patches
            count += len(patches)
        variances, components = torch.linalg.eigh(second_moments / count)  # ascending
        self._set((components / (variances + self.VARIANCE).sqrt()).T.flip(0))

    def _set(self, components: Float[Tensor, "components points"]) -> None:
        kernels = torch.cat([components, -components]).view_as(self.convolution.weight)
        self.convolution.weight.data.copy_(kernels)

    def forward(self, signals: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch components *shorter"]:
        return F.gelu(self.convolution(signals))


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
        depth: blocks per resolution, 1 with `blocks` "pooled".
        norm: "group" or "batch".
        stem_stride: stride of the first convolution, whose kernel has 2 stride + 1 values along every axis; 1 with "pooled".
        dropout: dropout rate before the last layer.
        mirrored: in evaluation, average the features of an image and of its mirror image.
        blocks: "residual"; or "pooled", `PooledBlock`s on `WhitenedPatches`, which train faster ("94% on CIFAR-10 in 3.29
            Seconds on a Single GPU", Jordan, 2024). Call `measure_patches` before training them.
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
        blocks: str = "residual",
    ):
        super().__init__()
        spec = from_arguments(ClassifierSpec, locals(), where=type(self).__name__)
        self.signal = (spec.signal or ImageSignalSpec()).build()
        self.image_shape = grid_of(spec.image_size)
        self.smallest_side = spec.smallest_side
        self.mirrored = mirrored
        num_axes = len(self.image_shape)
        self.stem: nn.Module
        if blocks == "pooled":
            self.stem = WhitenedPatches(channels, num_axes)
            channels_in = 2 * self.stem.num_components
        else:
            kernel = 2 * stem_stride + 1
            self.stem = convolution_of(num_axes)(channels, width, kernel, stride=stem_stride, padding=stem_stride)
            channels_in = width
        layers: list[nn.Module] = []
        for stage in range(stages):
            channels_out = width * 2**stage
            if blocks == "pooled":
                layers.append(PooledBlock(channels_in, channels_out, num_axes, norm))
            else:
                if stage:
                    layers.append(Halve(num_axes))
                for block in range(depth):
                    layers.append(ResidualBlock(channels_out if block else channels_in, channels_out, num_axes, norm))
            channels_in = channels_out
        self.blocks = nn.Sequential(*layers)
        self.num_features = channels_in
        # a pooled block ends with both
        self.norm = None if blocks == "pooled" else _norm(norm, self.num_features, num_axes)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.num_features, num_classes)

    def measure_patches(self, batches: Iterable[Float[Tensor, "_ channels *shape"]]) -> None:
        """Determine the first layer of pooled blocks from batches of images in [-1, 1]. InputError with residual blocks."""
        if not isinstance(self.stem, WhitenedPatches):
            raise InputError("measure_patches is for classifiers with blocks pooled; this one learns its first layer")
        self.stem.measure(batches)

    def features(self, images: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch features"]:
        """Images in [-1, 1] => features."""
        if self.mirrored and not self.training:
            return (self._features(images) + self._features(images.flip(-1))) / 2
        return self._features(images)

    def feature_maps(self, images: Float[Tensor, "batch channels *shape"]) -> list[Float[Tensor, "batch _ ..."]]:
        """Images in [-1, 1] => the maps of every resolution, the finest first; the means of the last ones are the features.

        Images may have any size of at least `smallest_side` along every axis. `mirrored` has no effect here.
        """
        maps, of_resolutions = self.stem(images), []
        for layer in self.blocks:
            if isinstance(layer, Halve | PooledBlock):
                of_resolutions.append(maps)
            maps = layer(maps)
        return [*of_resolutions, maps if self.norm is None else F.silu(self.norm(maps))]

    def _features(self, images: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch features"]:
        """The features of images as they are."""
        return self.feature_maps(images)[-1].flatten(2).mean(-1)

    def forward(self, images: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch classes"]:
        return self.head(self.dropout(self.features(images)))


def _norm(kind: str, channels: int, num_axes: int) -> nn.Module:
    return nn.GroupNorm(8, channels) if kind == "group" else batch_norm_of(num_axes)(channels)
