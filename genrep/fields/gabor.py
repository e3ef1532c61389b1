"""The multiplicative filter network with Gabor filters, GaborNet (Fathony et al., Multiplicative Filter Networks, 2021)."""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genrep.fields.base import Field, last
from genrep.nn.sines import coordinate_product, full_precision


class GaborFilter(nn.Module):
    """g_j(x) = exp(-γ_j/2 ||x - μ_j||²) sin(ω_j·x + φ_j) (section 3.2).

    Initially μ ~ U(-1, 1), γ ~ Gamma(alpha, beta), φ ~ U(-π, π), and ω is uniform with bound weight_scale √γ / √axes,
    so that the number of waves under a filter's envelope does not depend on the envelope's width.

    Args:
        num_axes: number of coordinate axes.
        width: number of filters.
        alpha, beta: shape and rate of the gamma distribution.
        weight_scale: scale of the frequencies ω.
    """

    def __init__(self, num_axes: int, width: int, alpha: float, beta: float, weight_scale: float):
        super().__init__()
        self.linear = nn.Linear(num_axes, width)
        self.centres = nn.Parameter(torch.empty(width, num_axes).uniform_(-1, 1))
        self.gamma = nn.Parameter(torch.empty(width))
        rates = torch.full(
            (width,), float(beta), device="cpu"
        )  # explicit, since nothing can be sampled on the meta device
        with torch.no_grad():
            self.gamma.copy_(torch.distributions.Gamma(torch.full_like(rates, float(alpha)), rates).sample())
            self.linear.weight.mul_(weight_scale * self.gamma[:, None].sqrt())
        nn.init.uniform_(self.linear.bias, -math.pi, math.pi)

    def forward(self, coords: Float[Tensor, "points axes"]) -> Float[Tensor, "points width"]:
        dtype = full_precision(self.gamma.dtype)
        weight, bias, centres, gamma = (
            part.to(dtype) for part in (self.linear.weight, self.linear.bias, self.centres, self.gamma)
        )
        coords = coords.to(dtype)
        # -γ/2 ||x - μ||² = γ μ·x - γ/2 ||x||² - γ/2 ||μ||² is linear in (x, ||x||², 1): one product for all filters
        squared = torch.cat([coords, coords.square().sum(dim=-1, keepdim=True)], dim=-1)
        columns = torch.cat([gamma[:, None] * centres, -0.5 * gamma[:, None]], dim=1)
        exponent = coordinate_product(squared, columns, -0.5 * gamma * centres.square().sum(dim=-1))
        return exponent.exp() * torch.sin(coordinate_product(coords, weight, bias))


class GaborField(Field):
    """z_1 = g_1(x) and z_(l+1) = (W_l z_l + b_l) ∘ g_(l+1)(x); after k filter layers the values are W z_k + b (section 3).

    The scale of the frequencies is divided by √k and the gamma distribution's alpha by k, because frequencies and
    inverse variances add up in a product of k Gabor functions. W_l is initialised from U(-1/√n, 1/√n) for n inputs.

    Args:
        num_axes: number of coordinate axes.
        channels: channels of the values.
        widths, input_scale, alpha, beta: see `GaborSpec`.
    """

    def __init__(
        self,
        num_axes: int,
        channels: int,
        *,
        widths: Sequence[int],
        input_scale: float | int,
        alpha: float | int,
        beta: float | int,
    ):
        super().__init__()
        num_filters = len(widths)
        self.filters = nn.ModuleList(
            GaborFilter(num_axes, width, alpha / num_filters, beta, input_scale / math.sqrt(num_filters))
            for width in widths
        )
        self.hidden = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(widths))
        self.to_values = nn.Linear(widths[-1], channels)

    def hidden_layers(self, prepared: Float[Tensor, "points axes"]) -> Iterator[tuple[str, Tensor]]:
        dtype = self.to_values.weight.dtype
        hidden = self._filtered(0, prepared).to(dtype)
        yield "layer 1", hidden
        for number, layer in enumerate(self.hidden, start=1):
            hidden = (layer(hidden) * self._filtered(number, prepared)).to(dtype)
            yield f"layer {number + 1}", hidden

    def _filtered(self, number: int, coords: Tensor) -> Tensor:
        with torch.autocast(coords.device.type, enabled=False):
            return self.filters[number](coords)

    def values(self, prepared: Float[Tensor, "points axes"]) -> Float[Tensor, "points channels"]:
        return self.to_values(last(self.hidden_layers(prepared)))
