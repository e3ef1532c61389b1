"""What every field is: the network of one signal, coordinates to values."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class Field(nn.Module):
    """A field writes `prepare` and `values`; the rest of the project calls the module.

    For coordinates that are asked for again and again, give it what `prepare` made of them.
    """

    def prepare(self, coords: Float[Tensor, "points axes"]) -> Any:
        """What depends on the coordinates alone: encodings, an order of the points. It has no gradient."""
        return coords

    def values(self, prepared: Any) -> Float[Tensor, "points channels"]:
        """Values at coordinates that `prepare` was given."""
        raise NotImplementedError

    def forward(self, coords: Any) -> Float[Tensor, "points channels"]:
        """Values at coordinates in [-1, 1], `[N, axes]`, or at what `prepare` made of some."""
        return self.values(self.prepare(coords) if isinstance(coords, Tensor) else coords)
