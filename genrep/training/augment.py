"""Augmentation of a classifier's training signals, of any number of axes, each by its own draws.

What a GAN's discriminator sees is augmented in `genrep/gan/augment.py`, where gradients pass through.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def shifted(
    signals: Float[Tensor, "batch channels *shape"], reach: int, draws: Float[Tensor, "batch axes"]
) -> Float[Tensor, "batch channels *shape"]:
    """Signals moved by -`reach` to `reach` points along every axis, the border repeated.

    Args:
        signals: of any values.
        reach: the largest move; 0 leaves them as they are.
        draws: uniform numbers in [0, 1), on the CPU: how far, along each axis.
    """
    if reach == 0:
        return signals
    moves = ((draws * (2 * reach + 1)).long() - reach).to(signals.device, non_blocking=True)
    for axis, length in enumerate(signals.shape[2:]):
        index = torch.arange(length, device=signals.device) + moves[:, axis, None]  # [B, length]
        index = _along(index.clamp(0, length - 1), axis, signals.ndim)
        signals = signals.gather(axis + 2, index.expand_as(signals))
    return signals


def cut_out(
    signals: Float[Tensor, "batch channels *shape"], side: int, draws: Float[Tensor, "batch axes"]
) -> Float[Tensor, "batch channels *shape"]:
    """Signals with a cube of `side` points along every axis set to 0, its centre anywhere, so that it may reach over the edge.

    Args:
        signals: of any values.
        side: of the cube.
        draws: uniform numbers in [0, 1), on the CPU: where its centre is, along each axis.
    """
    draws = draws.to(signals.device, non_blocking=True)
    inside = torch.ones((), dtype=torch.bool, device=signals.device)
    for axis, length in enumerate(signals.shape[2:]):
        first = (draws[:, axis, None] * length).long() - side // 2
        points = torch.arange(length, device=signals.device)
        here = (points >= first) & (points < first + side)  # [B, length]
        inside = inside & _along(here, axis, signals.ndim)
    return signals.masked_fill(inside, 0)


def _along(values: Tensor, axis: int, ndim: int) -> Tensor:
    """`[B, length]` as `[B, 1, ..., length, ..., 1]`, to stand beside signals of `ndim` dimensions."""
    shape = [len(values)] + [1] * (ndim - 1)
    shape[axis + 2] = values.shape[1]
    return values.view(shape)
