"""Fourier features of coordinates and of noise levels. The field built on them is in `genrep/fields/fourier.py`."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from genrep.coords import Coords, GridChunk, as_points
from genrep.errors import InputError


class FourierFeatures(nn.Module):
    """Log-spaced positional encoding (ANR eq. 1; locality-aware eq. 2), as [cos(π ω_k c_a)] then [sin(π ω_k c_a)].

    ω_k = σ^(k / (n - 1)) for k = 0 to n - 1, on every axis a: from 1 to σ = `max_frequency` periods over [-1, 1]. On a
    grid of N pixels the Nyquist limit is N/2: higher frequencies look like lower ones on the grid and become visible
    between its points.

    Args:
        num_axes: axes of the coordinates.
        num_frequencies: n, frequencies per axis; there are `2 * num_axes * num_frequencies` features.
        max_frequency: σ >= 1.
    """

    def __init__(self, num_axes: int, num_frequencies: int, max_frequency: float):
        super().__init__()
        self.frequencies: Tensor
        self.num_frequencies, self.max_frequency = num_frequencies, float(max_frequency)
        # Not saved: they follow from the config, and a model saved in half precision would store them rounded.
        self.register_buffer("frequencies", self._frequencies(), persistent=False)
        self.num_axes, self.num_features = num_axes, 2 * num_axes * num_frequencies

    def _frequencies(self) -> Tensor:
        # The exponents begin at 0, so that the lowest frequency is 1: two public ports begin at 10 and at e.
        exponents = torch.linspace(0, 1, self.num_frequencies, dtype=torch.float64)
        return (self.max_frequency**exponents).to(torch.float32)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """As in `nn.Module`, but the frequencies stay in float32."""
        super()._apply(*args, **kwargs)
        # bfloat16 keeps 8 bits: a frequency between 512 and 1024 would be off by up to 2, a whole period at the edge.
        self.frequencies = self._frequencies().to(self.frequencies.device)
        return self

    def forward(self, coords: Float[Tensor, "*points axes"]) -> Float[Tensor, "*points features"]:
        angles = (coords.float().unsqueeze(-1) * (math.pi * self.frequencies.float())).flatten(-2)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def projected(self, linear: nn.Linear, coords: Coords) -> Float[Tensor, "*points out"]:
        """`linear(self(coords))`, computed axis by axis for a chunk of a grid, which gives `[N, out]`."""
        weight, bias = linear.weight, linear.bias
        if not isinstance(coords, GridChunk) or not _axes_repeat(coords):
            return linear(self(as_points(coords)).to(weight.dtype))
        # A Linear of the features is a sum over axes, W γ(c) = Σ_a W_a γ(c_a): an H×W grid takes H + W products and H·W
        # additions instead of H·W products. At ANR's image setting the queries are 0.39 of a point's 3.29 MFLOP.
        columns = weight.unflatten(1, (2, self.num_axes, -1))  # [out, cos and sin, axes, frequencies]
        total: Tensor | None = None
        for axis, (centres, index) in enumerate(coords.axes):
            angles = centres.float()[:, None] * (math.pi * self.frequencies.float())
            features = torch.cat([angles.cos(), angles.sin()], dim=-1).to(weight.dtype)
            part = F.linear(features, columns[:, :, axis].flatten(1), bias if axis == 0 else None)
            at_points = part.index_select(0, index)
            total = at_points if total is None else total.add_(at_points)
        assert total is not None
        return total


def _axes_repeat(chunk: GridChunk) -> bool:
    """Whether working axis by axis saves time."""
    num_points, num_axes = chunk.shape
    # Every axis costs a gather and an addition at each point, which fewer products must pay for: 0.3 rather than 1.
    return sum(len(centres) for centres, _ in chunk.axes) < 0.3 * num_axes * num_points


def frequencies_of(num_features: int, num_axes: int) -> int:
    """n = ⌊d_f / (2 d_in)⌋ frequencies per axis (6 axes and d_f = 256 give 21 frequencies, 252 features)."""
    return num_features // (2 * num_axes)


class PositionalEncoding(FourierFeatures):
    """The coordinates, and cosine and sine of 1, 2, 4, ... 2^(n-1) periods over [-1, 1] on every axis (NeRF, LoE).

    n = log2 N frequencies end at the Nyquist limit of a grid of N pixels.
    """

    def __init__(self, num_axes: int, num_frequencies: int):
        # The papers write sin(2^k π p) for p in [0, 1] without saying where k begins. If the first period covers the
        # whole signal, their 9 frequencies for 512 pixels end exactly at the Nyquist limit, 256.
        super().__init__(num_axes, num_frequencies, 2.0 ** max(0, num_frequencies - 1))
        self.num_features += num_axes

    def forward(self, coords: Float[Tensor, "*points axes"]) -> Float[Tensor, "*points features"]:
        return torch.cat([coords, super().forward(coords)], dim=-1)


class CoordinateEmbedding(nn.Module):
    """Features of a coordinate, interpolated linearly in a learned grid over [-1, 1] (CE, from CIPS).

    Values lie at the cell centres and start from N(0, 1); beyond the outermost centres the edge value is repeated.

    Args:
        num_axes: 2 or 3.
        size: cells along every axis, one number or one per axis.
        dim: number of features.
    """

    def __init__(self, num_axes: int, size: int | Sequence[int], dim: int):
        super().__init__()
        shape = [size] * num_axes if isinstance(size, int) else list(size)
        if num_axes not in (2, 3) or len(shape) != num_axes:
            raise InputError(
                f"a coordinate embedding must have 2 or 3 axes and one size per axis; got sizes {shape} on {num_axes} axes"
            )
        self.grid = nn.Parameter(torch.randn(dim, *shape))

    def forward(self, coords: Float[Tensor, "points axes"]) -> Float[Tensor, "points features"]:
        # In float32 or better: bfloat16's 8 bits cannot place a point among hundreds of cells. At 267 cells values were off
        # by 1.4 times their size.
        dtype = torch.promote_types(self.grid.dtype, torch.float32)
        places = coords.to(dtype).flip(-1).view(1, *[1] * (coords.shape[-1] - 1), *coords.shape)  # grid_sample's (x, y)
        features = F.grid_sample(self.grid[None].to(dtype), places, padding_mode="border", align_corners=False)
        return features.flatten(2)[0].T.to(self.grid.dtype)


class FrequencyFeatures(nn.Module):
    """h_F(v) = ReLU(W γ_σ(v) + b), locality-aware eq. 3.

    Args:
        num_axes: d_in, axes of the coordinates.
        num_features: d_f, rounded down to whole frequencies per axis, see `frequencies_of`.
        bandwidth: σ, the highest frequency.
        dim: d, the width of the output.
    """

    def __init__(self, num_axes: int, num_features: int, bandwidth: float, dim: int):
        super().__init__()
        self.encoding = FourierFeatures(num_axes, frequencies_of(num_features, num_axes), bandwidth)
        self.linear = nn.Linear(self.encoding.num_features, dim)

    def forward(self, coords: Coords) -> Float[Tensor, "*points dim"]:
        return self.encoding.projected(self.linear, coords).relu_()


def timestep_features(
    timesteps: Float[Tensor, " batch"] | Int[Tensor, " batch"], dim: int, max_period: float = 10_000.0
) -> Float[Tensor, "batch dim"]:
    """Sinusoidal features of diffusion timesteps (DDPM), `[B, dim]` with `dim` even; timesteps may be fractional."""
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps.float()[:, None] * torch.exp(-math.log(max_period) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
