"""Convolution, pooling and batch norm by number of axes; torch has a separate name for each."""

from typing import Any

import torch.nn.functional as F
from torch import nn

from genrep.errors import InputError

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def convolution_of(num_axes: int) -> Any:
    """The convolution class for `num_axes` axes. InputError beyond three."""
    _check(num_axes)
    return CONVOLUTIONS[num_axes]


def batch_norm_of(num_axes: int) -> Any:
    """The class of batch norms over so many axes. InputError beyond three."""
    _check(num_axes)
    return BATCH_NORMS[num_axes]


def average_pool_of(num_axes: int) -> Any:
    """The average-pooling function for `num_axes` axes. InputError beyond three."""
    _check(num_axes)
    return AVERAGE_POOLS[num_axes]


def max_pool_of(num_axes: int) -> Any:
    """The function that pools to the largest of neighbours, for `num_axes` axes. InputError beyond three."""
    _check(num_axes)
    return MAX_POOLS[num_axes]


def _check(num_axes: int) -> None:
    if num_axes not in CONVOLUTIONS:
        raise InputError(
            f"convolutions need signals with 1, 2 or 3 axes; got {num_axes}. A GAN of latents with gan.sees: latents needs none"
        )
