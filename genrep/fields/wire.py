"""WIRE: an MLP of complex Gabor wavelets (Saragadam et al., WIRE: Wavelet Implicit Neural Representations, 2023)."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
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
            hidden = Wavelets.apply(F.pad(real, (0, real.shape[1])), self.omega, self.scale)
        yield "layer 1", hidden
        for number, layer in enumerate(self.hidden, start=2):
            with torch.autocast(prepared.device.type, enabled=False):
                hidden = Wavelets.apply(layer(hidden), self.omega, self.scale)
            yield f"layer {number}", hidden

    def values(self, prepared: Float[Tensor, "points axes"]) -> Float[Tensor, "points channels"]:
        hidden = last(self.hidden_layers(prepared))
        return self.to_values.real_part(hidden.to(self.to_values.weight.dtype))


class Wavelets(torch.autograd.Function):
    """ψ of complex numbers u = a + ib, given and returned as `[real parts, imaginary parts]`.

    With ψ = p + iq and the gradients g and h of the loss by p and q, those by a and b are

        ω₀(hp - gq) - 2s₀²a(gp + hq)   and   -(ω₀ + 2s₀²b)(gp + hq),

    which need no sine, cosine or exponential, and of the forward pass only u and ψ, which the next layer keeps anyway.
    Derivatives of any order exist in reverse mode, also those of `torch.func`.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Float[Tensor, "points twice_width"], omega: float, scale: float) -> Tensor:
        real, imaginary = inputs.chunk(2, dim=-1)
        exponent = real.square().addcmul_(imaginary, imaginary).mul_(-(scale**2)).add_(imaginary, alpha=-omega)
        envelope, angle = exponent.exp_(), omega * real
        return torch.cat([angle.cos().mul_(envelope), angle.sin_().mul_(envelope)], dim=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        values, ctx.omega, ctx.scale = inputs
        ctx.save_for_backward(values, output)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, wavelets = ctx.saved_tensors
        (real, imaginary), (p, q) = inputs.chunk(2, dim=-1), wavelets.chunk(2, dim=-1)
        g, h = gradients.chunk(2, dim=-1)
        radial = (g * p).addcmul(h, q)  # not in place: under vmap, g may be one for all points
        tangential = (h * p).addcmul(g, q, value=-1)
        slope = -2 * ctx.scale**2 * radial
        by_real = (real * slope).add(tangential, alpha=ctx.omega)
        by_imaginary = (imaginary * slope).add(radial, alpha=-ctx.omega)
        return torch.cat([by_real, by_imaginary], dim=-1), None, None
