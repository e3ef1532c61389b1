"""An MLP on a positional encoding, with or without a learned coordinate embedding: the baselines of Levels-of-Experts."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genrep.fields.base import Field, last
from genrep.nn.fourier import CoordinateEmbedding, PositionalEncoding


class Prepared(NamedTuple):
    """Coordinates and their encoding."""

    coords: Tensor
    encoding: Tensor


class PositionalMLPField(Field):
    """PE-MLP, or PE + CE: linear layers with leaky ReLU (slope 0.2) between them (LoE, supplement A to C).

    Args:
        num_axes: number of coordinate axes; an embedding needs 2 or 3.
        channels: channels of the values.
        widths, num_frequencies, embedding_dim, embedding_size: see `PositionalMLPSpec`.
    """

    def __init__(
        self,
        num_axes: int,
        channels: int,
        *,
        widths: Sequence[int],
        num_frequencies: int,
        embedding_dim: int,
        embedding_size: int | Sequence[int],
    ):
        super().__init__()
        self.encoding = PositionalEncoding(num_axes, num_frequencies)
        self.embedding = CoordinateEmbedding(num_axes, embedding_size, embedding_dim) if embedding_dim else None
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise([self.encoding.num_features + embedding_dim, *widths])]
        self.layers = nn.ModuleList(layers)
        self.to_values = nn.Linear(widths[-1], channels)
        for layer in (*layers, self.to_values):  # including the output layer (supplement A)
            nn.init.kaiming_uniform_(layer.weight, a=0.2)
            nn.init.zeros_(layer.bias)

    def prepare(self, coords: Float[Tensor, "points axes"]) -> Prepared:
        return Prepared(coords, self.encoding(coords))

    def hidden_layers(self, prepared: Prepared) -> Iterator[tuple[str, Tensor]]:
        hidden = prepared.encoding.to(self.to_values.weight.dtype)
        if self.embedding is not None:
            hidden = torch.cat([hidden, self.embedding(prepared.coords)], dim=-1)
        for number, layer in enumerate(self.layers, start=1):
            hidden = F.leaky_relu_(layer(hidden), 0.2)
            yield f"layer {number}", hidden

    def values(self, prepared: Prepared) -> Float[Tensor, "points channels"]:
        return self.to_values(last(self.hidden_layers(prepared)))
