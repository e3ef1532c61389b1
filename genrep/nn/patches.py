"""From signals on a grid to patch tokens."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from genrep.errors import InputError

AXES = "abcdefgh"
"""Names of the axes in einops patterns."""


class PatchTokenizer(nn.Module):
    """Non-overlapping patches as tokens: zero padding, one Linear, a learned position embedding ~ N(0, 1).

    The signal is padded evenly on both sides to whole patches, so that no pixel is lost: 128 pixels with patch 10 are padded
    by 1 to 13×13 = 169 tokens (ANR), 178 with patch 9 by 1 to 20×20 = 400, 1024 with patch 48 by 16 to 22×22 = 484.

    Args:
        shape: the grid, one length per axis, any number of axes: (height, width) for images.
        channels: channels of the values.
        patch_size: edge of a patch, one number or one per axis.
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
        # For two axes "batch channel (a A) (b B) -> batch (a b) (channel A B)": lower case counts patches along an axis,
        # upper case the points within a patch. einops takes names only, so the pattern is assembled.
        names = AXES[: len(self.shape)]
        before = " ".join(f"({name} {name.upper()})" for name in names)
        self.cut = f"batch channel {before} -> batch ({' '.join(names)}) (channel {' '.join(names.upper())})"
        self.project = nn.Linear(numbers, dim)
        self.position = nn.Parameter(torch.randn(self.num_patches, dim))

    def forward(self, signals: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch patches dim"]:
        if tuple(signals.shape[1:]) != (self.channels, *self.shape):
            expected = " × ".join(map(str, (self.channels, *self.shape)))
            raise InputError(
                f"images of shape {tuple(signals.shape)} do not fit the encoder, which was built for a batch of {expected}: "
                "resize and crop them to that size first"
            )
        edges = dict(zip(AXES.upper(), self.patch, strict=False))
        return self.project(rearrange(F.pad(signals, self.padding), self.cut, **edges)) + self.position
