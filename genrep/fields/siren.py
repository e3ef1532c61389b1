"""SIREN: an MLP with sine activations (Sitzmann et al., Implicit Neural Representations with Periodic Activation Functions, 2020)."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genrep.fields.base import Field, last
from genrep.nn.sines import AngleLinear, siren_bound


class SirenField(Field):
    """z_l = sin(ω_l (W_l z_(l-1) + b_l)) with z_0 = x; the values are W z_L + b (section 3, ω as in section 3.2).

    Weights are initialised from U(-1/n, 1/n) in the first layer and U(-√(6/n)/ω, √(6/n)/ω) in the later ones and the
    output layer, for n inputs; the products ωW z are then about N(0, 1), and activations have the same distribution at
    any depth. The paper does not specify the biases; here, as in its code, they have PyTorch's default, U(-1/√n, 1/√n).
    Multiplied by ω, they spread the phases of the first layer over several periods; at 256 units and ω = 30 they raise
    the angles' standard deviation to 1.5, which leaves that of their sines at 0.7.

    Args:
        num_axes: number of coordinate axes.
        channels: channels of the values.
        widths, first_omega, hidden_omega: see `SirenSpec`.
    """

    def __init__(
        self,
        num_axes: int,
        channels: int,
        *,
        widths: Sequence[int],
        first_omega: float | int,
        hidden_omega: float | int,
    ):
        super().__init__()
        omegas = [first_omega, *[hidden_omega] * (len(widths) - 1)]
        self.hidden = nn.ModuleList(
            AngleLinear(inputs, outputs, omega)
            for (inputs, outputs), omega in zip(itertools.pairwise([num_axes, *widths]), omegas, strict=True)
        )
        self.to_values = nn.Linear(widths[-1], channels)
        for number, layer in enumerate((*self.hidden, self.to_values)):
            bound = siren_bound(layer.in_features, hidden_omega, first=number == 0)
            nn.init.uniform_(layer.weight, -bound, bound)

    def hidden_layers(self, prepared: Float[Tensor, "points axes"]) -> Iterator[tuple[str, Tensor]]:
        hidden = prepared
        for number, layer in enumerate(self.hidden, start=1):
            hidden = torch.sin(layer(hidden))
            yield f"layer {number}", hidden

    def values(self, prepared: Float[Tensor, "points axes"]) -> Float[Tensor, "points channels"]:
        return self.to_values(last(self.hidden_layers(prepared)).to(self.to_values.weight.dtype))
