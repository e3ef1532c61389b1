"""Images to patch tokens."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from genrep.errors import InputError


class PatchTokenizer(nn.Module):
    """Non-overlapping patches, each a token: zero padding, one Linear, a learned position embedding ~ N(0, 1).

    The image is padded evenly on both sides up to whole patches, so no pixel is lost: 128 with patch 10 is padded by 1
    to 13×13 = 169 tokens (ANR), 178 with patch 9 by 1 to 20×20 = 400, 1024 with patch 48 by 16 to 22×22 = 484.
    """

    def __init__(self, image_size: tuple[int, int], channels: int, patch_size: int, dim: int):
        super().__init__()
        self.image_size, self.channels, self.patch_size = image_size, channels, patch_size
        counts = [-(-length // patch_size) for length in image_size]
        missing = [count * patch_size - length for count, length in zip(counts, image_size, strict=True)]
        (top, left), (bottom, right) = [m // 2 for m in missing], [m - m // 2 for m in missing]
        self.padding = (left, right, top, bottom)  # in F.pad's order: last axis first
        self.num_patches = counts[0] * counts[1]
        self.project = nn.Linear(channels * patch_size**2, dim)
        self.position = nn.Parameter(torch.randn(self.num_patches, dim))

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch patches dim"]:
        if images.ndim != 4 or tuple(images.shape[1:]) != (self.channels, *self.image_size):
            want = " × ".join(map(str, (self.channels, *self.image_size)))
            raise InputError(
                f"images of shape {tuple(images.shape)} do not fit the encoder, which was built for a batch of {want}: "
                "resize and crop them to that size first"
            )
        padded = F.pad(images, self.padding)
        patches = rearrange(padded, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch_size, q=self.patch_size)
        return self.project(patches) + self.position
