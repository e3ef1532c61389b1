"""The Fourier-feature network of one signal (Tancik et al., Fourier Features Let Networks Learn High Frequency Functions, 2020).

The locality-aware paper (figure 7) and SCONE compare against it. Features of other networks are in
`genrep/nn/fourier.py`.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genrep.fields.base import Field
from genrep.nn.sines import coordinate_product, full_precision


class Prepared(NamedTuple):
    """Fourier features of the coordinates."""

    features: Tensor


class FourierField(Field):
    """A ReLU MLP on γ(v) = [cos 2πBv, sin 2πBv], with a fixed B ~ N(0, scale²) (eq. 5) and v in [0, 1] as in the paper.

    Args:
        num_axes: number of coordinate axes.
        channels: channels of the values.
        hidden_dim: width of the hidden layers.
        depth: number of linear layers, including the output layer.
        num_features: number of Fourier features; must be even.
        scale: standard deviation of the frequencies, in periods across the signal.
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

    def prepare(self, coords: Float[Tensor, "*points axes"]) -> Prepared:
        dtype = full_precision(self.frequencies.dtype)
        with torch.autocast(coords.device.type, enabled=False):
            frequencies = self.frequencies.to(dtype)
            turns = math.pi * (coords.to(dtype) + 1)
            angles = coordinate_product(turns, frequencies, frequencies.new_zeros(len(frequencies)))
        return Prepared(torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.frequencies.dtype))

    def hidden_layers(self, prepared: Prepared) -> Iterator[tuple[str, Tensor]]:
        hidden = prepared.features
        yield "features", hidden
        for number, (linear, activation) in enumerate(zip(self.mlp[:-1:2], self.mlp[1::2], strict=True), start=1):
            hidden = activation(linear(hidden))
            yield f"layer {number}", hidden

    def values(self, prepared: Prepared) -> Float[Tensor, "*points channels"]:
        return self.mlp(prepared.features)
