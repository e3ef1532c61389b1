"""What all samples of a generator have in common: the fixed noise pattern of Levels-of-Experts' figure 7."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from genrep.errors import InputError


class Statistics(NamedTuple):
    """Statistics of many images, in grey values 0 to 255."""

    mean: Float[Tensor, "channels height width"]
    deviation: Float[Tensor, "channels height width"]
    """Standard deviation of every pixel."""
    chance: float
    """The detail that the mean of as many independent images has by chance: its standard error."""


def statistics(batches: Iterable[Tensor]) -> Statistics:
    """Statistics over all images of the batches, uint8 `[N, C, H, W]`.

    Raises:
        InputError: there are no images.
    """
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        values = batch.cpu().double()  # in this order: Apple's GPUs have no float64
        values_and_detail = torch.cat([values, _highpass(values)], dim=1)
        count, total = count + len(batch), total + values_and_detail.sum(0)
        squares = squares + values_and_detail.square().sum(0)
    if not count:
        raise InputError("there are no images: give one or more")
    # E[x²] - E[x]² takes a single pass over the images, and cancels little for 8-bit values in float64.
    mean = total / count
    variance, variance_of_detail = (squares / count - mean.square()).clamp_min(0).chunk(2)
    chance = (variance_of_detail.mean() / count).sqrt()
    return Statistics(mean.chunk(2)[0].float(), variance.sqrt().float(), float(chance))


def detail(image: Float[Tensor, "channels height width"]) -> float:
    """Root mean square of the difference between an image and its 3×3 mean, in the image's units."""
    return float(_highpass(image[None]).square().mean().sqrt())


def _highpass(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
    return images - F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
