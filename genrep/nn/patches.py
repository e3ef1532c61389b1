"""Signals on a grid to patch tokens."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from genrep.errors import InputError

AXES = "abcdefgh"
"""Names of axes in einops' strings."""


class PatchTokenizer(nn.Module):
    """Non-overlapping patches, each a token: zero padding, one Linear, a learned position embedding ~ N(0, 1).

    The signal is padded evenly on both sides up to whole patches, so no pixel is lost: 128 with patch 10 is padded by 1
    to 13×13 = 169 tokens (ANR), 178 with patch 9 by 1 to 20×20 = 400, 1024 with patch 48 by 16 to 22×22 = 484.

    Args:
        shape: the grid, one length an axis, any number of axes: (height, width) of images.
        channels: of the values.
        patch_size: edge of a patch, one number or one an axis.
        dim: width of a token.
    """

    def __init__(self, shape: Sequence[int], channels: int, patch_size: int | Sequence[int], dim: int):
        super().__init__()
        self.shape, self.channels = tuple(shape), channels
        self.patch = (patch_size,) * len(self.shape) if isinstance(patch_size, int) else tuple(patch_size)
        counts = [-(-length // edge) for length, edge in zip(self.shape, self.patch, strict=True)]
        self.padding: list[int] = []  # in F.pad's order: last axis first
        for length, edge, count in reversed(list(zip(self.shape, self.patch, counts, strict=True))):
            missing = count * edge - length
            self.padding += [missing // 2, missing - missing // 2]
        self.num_patches, numbers = math.prod(counts), channels * math.prod(self.patch)
        names = AXES[
            : len(self.shape)
        ]  # "b c (a A) (b B) -> ...": a patch's place, and a place in it, along every axis
        before = " ".join(f"({name} {name.upper()})" for name in names)
        self.cut = f"batch channel {before} -> batch ({' '.join(names)}) (channel {' '.join(names.upper())})"
        self.project = nn.Linear(numbers, dim)
        self.position = nn.Parameter(torch.randn(self.num_patches, dim))

    def forward(self, signals: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch patches dim"]:
        if tuple(signals.shape[1:]) != (self.channels, *self.shape):
            want = " × ".join(map(str, (self.channels, *self.shape)))
            raise InputError(
                f"images of shape {tuple(signals.shape)} do not fit the encoder, which was built for a batch of {want}: "
                "resize and crop them to that size first"
            )
        edges = dict(zip(AXES.upper(), self.patch, strict=False))
        return self.project(rearrange(F.pad(signals, self.padding), self.cut, **edges)) + self.position
