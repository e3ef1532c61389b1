"""Augmentation of a classifier's training signals, on any number of axes, by random numbers that the caller draws.

Augmentation for a GAN's discriminator, through which gradients pass, is in `genrep/gan/augment.py`.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def shifted(
    signals: Float[Tensor, "batch channels *shape"], reach: int, draws: Float[Tensor, "batch axes"]
) -> Float[Tensor, "batch channels *shape"]:
    """Signals shifted by -`reach` to `reach` points along every axis, repeating the border.

    Args:
        signals: any values.
        reach: the largest shift; 0 returns the signals unchanged.
        draws: uniform numbers in [0, 1), on the CPU, which determine the shift of each signal along each axis.
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
    """Signals with a cube of `side` points per axis set to 0. Its centre is anywhere, so it may extend over the edge.

    Args:
        signals: any values.
        side: side of the cube.
        draws: uniform numbers in [0, 1), on the CPU, which determine the centre in each signal along each axis.
    """
    draws = draws.to(signals.device, non_blocking=True)
    inside = torch.ones((), dtype=torch.bool, device=signals.device)
    for axis, length in enumerate(signals.shape[2:]):
        first = (draws[:, axis, None] * length).long() - side // 2
        points = torch.arange(length, device=signals.device)
        covered = (points >= first) & (points < first + side)  # [B, length]
        inside = inside & _along(covered, axis, signals.ndim)
    return signals.masked_fill(inside, 0)


def _along(values: Tensor, axis: int, ndim: int) -> Tensor:
    """`[B, length]` as `[B, 1, ..., length, ..., 1]`, which broadcasts with signals of `ndim` dimensions."""
    shape = [len(values)] + [1] * (ndim - 1)
    shape[axis + 2] = values.shape[1]
    return values.view(shape)
