"""Where the latents of a cloud are anchored: pixels of an image drawn by the norm of its gradient (ARC, section 3.2.1)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def gradient_norm(values: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch *shape"]:
    """Norm of the gradient over all channels and axes: Sobel's filter, with replicated borders, for any number of axes.

    The derivative along an axis is half the difference of the two neighbours, smoothed by (1, 2, 1) / 4 along every other axis.
    """
    num_axes = values.ndim - 2
    total = torch.zeros_like(values[:, 0])
    for axis in range(num_axes):
        slope = values
        for along in range(num_axes):
            taps = (-0.5, 0.0, 0.5) if along == axis else (0.25, 0.5, 0.25)
            slope = _filtered(slope, 2 + along, taps)
        total += slope.square().sum(dim=1)
    return total.sqrt()


def beside_missing(present: Float[Tensor, "batch *shape"]) -> Bool[Tensor, "batch *shape"]:
    """Pixels that are missing, or whose gradient would use one that is: those within a pixel of one along every axis."""
    missing = 1 - present
    for dim in range(1, missing.ndim):
        missing = _filtered(missing, dim, (1.0, 1.0, 1.0))
    return missing > 0


def _filtered(values: Tensor, dim: int, taps: tuple[float, float, float]) -> Tensor:
    """Values filtered with three taps along an axis, with replicated borders."""
    length = values.shape[dim]
    before, after = values.narrow(dim, 0, 1), values.narrow(dim, length - 1, 1)
    padded = torch.cat([before, values, after], dim=dim)
    low, middle, high = (padded.narrow(dim, start, length) for start in range(3))
    return taps[0] * low + taps[1] * middle + taps[2] * high


def draw_anchors(weights: Float[Tensor, " pixels"], count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
    """`count` different pixels, drawn without replacement with probabilities proportional to their weights; ascending.

    Pixels of weight 0 are drawn, all with equal probability, only if the others are too few, so that a flat image gets
    anchors too. Drawing pixels one after another, with probability w / Σw over the remaining ones, is equivalent to taking
    the `count` largest log w + g with g from a Gumbel distribution. This needs one random number per pixel, and no loop.

    Args:
        weights: 0 or greater.
        count: at most the number of pixels.
        generator: a CPU generator.
    """
    uniform = torch.rand(len(weights), generator=generator, dtype=torch.float64)
    gumbel = -(-uniform.clamp_min(2.0**-60).log()).clamp_min(2.0**-60).log()
    keys = weights.cpu().double().log() + gumbel
    has_weight = keys.isfinite()
    # below all other keys: the logarithm of a positive double is never less than -745
    keys = torch.where(has_weight, keys, gumbel - 1e6)
    return keys.topk(count).indices.sort().values
