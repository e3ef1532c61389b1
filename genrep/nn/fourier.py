"""Fourier features of coordinates and of noise levels."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class FourierFeatures(nn.Module):
    """Log-spaced positional encoding γ(c) = sin(Ωc + φ), ANR eq. 1, as [cos(π ω_k c_a)] then [sin(π ω_k c_a)].

    Frequencies run from 1 to `max_frequency` periods over [-1, 1], on every axis a. On a grid of N pixels N/2 is
    the Nyquist limit: what lies above it cannot be told from lower frequencies on the grid and shows between its points.

    Args:
        num_axes: axes of the coordinates.
        num_frequencies: frequencies an axis; there are `2 * num_axes * num_frequencies` features.
        max_frequency: the last frequency, >= 1.
    """

    def __init__(self, num_axes: int, num_frequencies: int, max_frequency: float):
        super().__init__()
        self.frequencies: Tensor
        exponents = torch.linspace(0, 1, num_frequencies, dtype=torch.float64)
        frequencies = (float(max_frequency) ** exponents).to(torch.float32)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.num_features = 2 * num_axes * num_frequencies

    def forward(self, coords: Float[Tensor, "*points axes"]) -> Float[Tensor, "*points features"]:
        angles = (coords.float().unsqueeze(-1) * (math.pi * self.frequencies.float())).flatten(-2)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


def timestep_features(
    timesteps: Float[Tensor, " batch"] | Int[Tensor, " batch"], dim: int, max_period: float = 10_000.0
) -> Float[Tensor, "batch dim"]:
    """Sinusoidal features of diffusion timesteps (DDPM), `[B, dim]`, `dim` even; timesteps may be fractional."""
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps.float()[:, None] * torch.exp(-math.log(max_period) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
