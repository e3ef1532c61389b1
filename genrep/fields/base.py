"""The base class of fields: networks that map the coordinates of one signal to its values."""

import collections
from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class Field(nn.Module):
    """A subclass implements `prepare`, `hidden_layers` and `values`; the rest of the project calls the module.

    Values have gradients by the coordinates, except those of Levels-of-Experts, whose tiles are piecewise constant.
    Where the same coordinates are used many times, call `prepare` once and pass its result to the module.
    """

    def prepare(self, coords: Float[Tensor, "points axes"]) -> Any:
        """Everything that depends on the coordinates alone, such as encodings or a point order."""
        return coords

    def hidden_layers(self, prepared: Any) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the activations `[N, width]` of each hidden layer, first to last, at prepared coordinates."""
        raise NotImplementedError

    def values(self, prepared: Any) -> Float[Tensor, "points channels"]:
        """Values at prepared coordinates."""
        raise NotImplementedError

    def forward(self, coords: Any) -> Float[Tensor, "*points channels"]:
        """Values at coordinates in [-1, 1], `[N, axes]`, or at coordinates that `prepare` has prepared."""
        return self.values(self.prepare(coords) if isinstance(coords, Tensor) else coords)

    def activations(self, coords: Float[Tensor, "points axes"]) -> dict[str, Float[Tensor, "points _"]]:
        """Activations of the hidden layers at coordinates: name -> `[N, width]`, first to last."""
        return dict(self.hidden_layers(self.prepare(coords)))


def last(layers: Iterator[tuple[str, Tensor]]) -> Tensor:
    """The activations of the last hidden layer; earlier ones are dropped along the way."""
    (_, activations), *_ = collections.deque(layers, maxlen=1)
    return activations
