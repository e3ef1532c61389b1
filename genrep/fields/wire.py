"""WIRE: an MLP of complex Gabor wavelets (Saragadam et al., WIRE: Wavelet Implicit Neural Representations, 2023)."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genrep.fields.base import Field, last
from genrep.nn.linear import ComplexLinear
from genrep.nn.sines import coordinate_product, full_precision


class WireField(Field):
    """z_l = ψ(W_l z_(l-1) + b_l) with ψ(u) = exp(iω₀u) exp(-|s₀u|²); the values are Re(W z_L + b) (section 3).

    The first layer's weights are real, since coordinates are; all others are complex, including the output layer's. All
    layers have PyTorch's default initialisation. Everything is computed in real numbers,
    `[real parts, imaginary parts]`: for u = a + ib,

        ψ(u) = exp(-ω₀b - s₀²(a² + b²)) (cos ω₀a + i sin ω₀a)

    Args:
        num_axes: number of coordinate axes.
        channels: channels of the values.
        widths, omega, scale: see `WireSpec`.
    """

    def __init__(self, num_axes: int, channels: int, *, widths: Sequence[int], omega: float | int, scale: float | int):
        super().__init__()
        self.omega, self.scale = float(omega), float(scale)
        self.first = nn.Linear(num_axes, widths[0])
        self.hidden = nn.ModuleList(ComplexLinear(inputs, outputs) for inputs, outputs in itertools.pairwise(widths))
        self.to_values = ComplexLinear(widths[-1], channels)

    def hidden_layers(self, prepared: Float[Tensor, "points axes"]) -> Iterator[tuple[str, Tensor]]:
        """Complex activations as `[N, 2 width]`: the real parts, then the imaginary parts."""
        dtype = full_precision(self.first.weight.dtype)
        with torch.autocast(prepared.device.type, enabled=False):
            weight, bias = self.first.weight.to(dtype), self.first.bias.to(dtype)
            real = coordinate_product(prepared.to(dtype), weight, bias)
            hidden = _wavelets(real, None, self.omega, self.scale)
        yield "layer 1", hidden
        for number, layer in enumerate(self.hidden, start=2):
            with torch.autocast(prepared.device.type, enabled=False):
                real, imaginary = layer(hidden).chunk(2, dim=-1)
                hidden = _wavelets(real, imaginary, self.omega, self.scale)
            yield f"layer {number}", hidden

    def values(self, prepared: Float[Tensor, "points axes"]) -> Float[Tensor, "points channels"]:
        hidden = last(self.hidden_layers(prepared))
        return self.to_values.real_part(hidden.to(self.to_values.weight.dtype))


def _wavelets(
    real: Tensor, imaginary: Tensor | None, omega: float, scale: float
) -> Float[Tensor, "points twice_width"]:
    """ψ of complex numbers, or of real ones if `imaginary` is None."""
    exponent = -(scale**2) * real.square()
    if imaginary is not None:
        exponent = exponent - imaginary * (omega + scale**2 * imaginary)
    envelope, angle = exponent.exp(), omega * real
    return torch.cat([envelope * angle.cos(), envelope * angle.sin()], dim=-1)
