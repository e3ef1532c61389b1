"""A perceptual term for stage 1: what a classifier sees of reconstructions, compared with what it sees of the originals.

The classifier is trained on the data set itself, so no weights are downloaded. Its features must not measure the result as
well: they would rate it too well.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genrep.coords import grid
from genrep.data.signals import SignalData
from genrep.errors import InputError
from genrep.randomness import stream_generator
from genrep.training.folders import load_classifier
from genrep.training.specs import PerceptualSpec

Maps = list[Float[Tensor, "batch _ ..."]]


class Window(NamedTuple):
    """A window of a batch of images.

    Attributes:
        coords: its pixel centres `[N, axes]`, row by row.
        values: `[B, C, *window]`.
    """

    coords: Tensor
    values: Tensor

    def after(self, coords: Float[Tensor, "*batch points axes"]) -> Float[Tensor, "*batch more axes"]:
        """These coordinates, followed by the window's, for decoding both in one pass."""
        return torch.cat([coords, self.coords.expand(*coords.shape[:-2], -1, -1)], dim=-2)


class PerceptualLoss:
    """The distance between a frozen classifier's maps of two images, for windows of them.

    Args:
        spec: the classifier's folder, and the window.
        data: the training signals.

    Attributes:
        hash: of the classifier's files.

    Raises:
        InputError: there is no convolutional classifier in the folder, or one of other signals or channels; values may be
            missing; the window is too small for the classifier's halvings.
    """

    def __init__(self, spec: PerceptualSpec, data: SignalData):
        self.classifier, self.hash = load_classifier(spec.classifier, data, "perceptual.classifier")
        self.spec = spec
        if spec.window < self.classifier.smallest_side:
            raise InputError(
                f"perceptual.window must be at least {self.classifier.smallest_side}, which the halvings of perceptual.classifier "
                f"{spec.classifier!r} need; got {spec.window}"
            )

    def window(self, values: Float[Tensor, "batch channels *shape"], seed: int, step: int) -> Window:
        """The window of a step, in the same place in all images and on all processes."""
        shape, side = values.shape[2:], self.spec.window
        generator = stream_generator(seed, "perceptual window", step)
        corner = [int(torch.randint(length - side + 1, (), generator=generator)) for length in shape]
        place = tuple(slice(start, start + side) for start in corner)
        coords = grid(shape, device=values.device).view(*shape, len(shape))[place]
        return Window(coords.reshape(-1, len(shape)), values[(slice(None), slice(None), *place)])

    def __call__(self, predicted: Float[Tensor, "batch points channels"], window: Window) -> Float[Tensor, ""]:
        """The distance of decoded values from the window; the last of the points are the window's."""
        with torch.no_grad():
            target = self.classifier.feature_maps(window.values)
        images = predicted[:, -len(window.coords) :].mT.reshape(window.values.shape)
        return feature_distance(self.classifier.feature_maps(images), target)


def feature_distance(maps: Maps, target: Maps) -> Float[Tensor, ""]:
    """Squared distance of maps that are normalised to unit length at every place, averaged over places and resolutions.

    LPIPS (Zhang et al., 2018, eq. 1) with all channel weights 1, and the mean over resolutions where LPIPS has the sum, so that
    it is between 0 and 4 for every classifier.
    """
    distances = [(_unit(a) - _unit(b)).square().sum(dim=1).mean() for a, b in zip(maps, target, strict=True)]
    return torch.stack(distances).mean()


def _unit(maps: Float[Tensor, "batch maps *shape"]) -> Float[Tensor, "batch maps *shape"]:
    maps = maps.float()
    # inside the root, so that the gradient is finite where all maps are 0
    return maps / (maps.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()
