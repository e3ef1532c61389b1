"""The Fourier-feature network of one signal (Tancik et al., 2020), what the locality-aware paper's figure 7 compares with.

Fourier features themselves are in `genrep/nn/fourier.py`.
"""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FourierField(nn.Module):
    """An MLP with ReLU on [cos 2πBv, sin 2πBv], B ~ N(0, scale²) fixed, v in [0, 1] as in the paper.

    Args:
        num_axes: axes of the coordinates.
        channels: of the values.
        hidden_dim: width.
        depth: Linear layers, the output layer included.
        num_features: Fourier features, an even number.
        scale: deviation of the frequencies, in periods over the signal.
    """

    def __init__(
        self,
        num_axes: int = 2,
        channels: int = 3,
        hidden_dim: int = 256,
        depth: int = 5,
        num_features: int = 512,
        scale: float | int = 10.0,
    ):
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.randn(num_features // 2, num_axes) * scale)
        widths = [2 * (num_features // 2), *[hidden_dim] * (depth - 1)]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], channels))

    def forward(self, coords: Float[Tensor, "*points axes"]) -> Float[Tensor, "*points channels"]:
        """Values at coordinates in [-1, 1]."""
        with torch.autocast(coords.device.type, enabled=False):  # a product in bfloat16 rounds angles by a radian
            dtype = torch.promote_types(self.frequencies.dtype, torch.float32)
            angles = (math.pi * (coords.to(dtype) + 1)) @ self.frequencies.to(dtype).T
        features = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(features.to(self.frequencies.dtype))
