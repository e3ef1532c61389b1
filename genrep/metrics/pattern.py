"""What all samples of a generator have in common: the fixed noise pattern of Levels-of-Experts' figure 7."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from genrep.errors import InputError


def mean_and_deviation(
    batches: Iterable[Tensor],
) -> tuple[Float[Tensor, "channels height width"], Float[Tensor, "channels height width"]]:
    """Mean and standard deviation of every pixel over uint8 images `[N, C, H, W]`, in grey values 0 to 255."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        values = batch.double()
        count, total, squares = count + len(batch), total + values.sum(0), squares + values.square().sum(0)
    if not count:
        raise InputError("there are no images: give one or more")
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()


def detail(image: Float[Tensor, "channels height width"]) -> float:
    """Root mean square of what a 3×3 mean takes away from an image, in its own units."""
    blurred = F.avg_pool2d(F.pad(image[None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]
    return float((image - blurred).square().mean().sqrt())
