"""What every field is: the network of one signal, coordinates to values."""

import collections
from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class Field(nn.Module):
    """A field writes `prepare`, `hidden_layers` and `values`; the rest of the project calls the module.

    Where the same coordinates are used many times, `prepare` them once and call the module with the result.
    """

    def prepare(self, coords: Float[Tensor, "points axes"]) -> Any:
        """What depends on the coordinates alone: encodings, an order of the points. It has no gradient."""
        return coords

    def hidden_layers(self, prepared: Any) -> Iterator[tuple[str, Tensor]]:
        """Name and activations `[N, width]` of each hidden layer, first to last, at what `prepare` was given."""
        raise NotImplementedError

    def values(self, prepared: Any) -> Float[Tensor, "points channels"]:
        """Values at coordinates that `prepare` was given."""
        raise NotImplementedError

    def forward(self, coords: Any) -> Float[Tensor, "*points channels"]:
        """Values at coordinates in [-1, 1], `[N, axes]`, or at what `prepare` made of some."""
        return self.values(self.prepare(coords) if isinstance(coords, Tensor) else coords)

    def activations(self, coords: Float[Tensor, "points axes"]) -> dict[str, Float[Tensor, "points _"]]:
        """The activations of the hidden layers at coordinates, `[N, width]` by name, first to last."""
        return dict(self.hidden_layers(self.prepare(coords)))


def last(layers: Iterator[tuple[str, Tensor]]) -> Tensor:
    """The activations of the last hidden layer; those before it are not kept."""
    (_, activations), *_ = collections.deque(layers, maxlen=1)
    return activations
