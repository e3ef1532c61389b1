"""The multiplicative filter network with Gabor filters, GaborNet (Fathony et al., Multiplicative Filter Networks, 2021)."""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genrep.fields.base import Field, last
from genrep.nn.sines import full_precision


class GaborFilter(nn.Module):
    """g_j(x) = exp(-γ_j/2 ||x - μ_j||²) sin(ω_j·x + φ_j) (section 3.2).

    At the start μ ~ U(-1, 1), γ ~ Gamma(alpha, beta), φ ~ U(-π, π), and ω is uniform with a bound of
    weight_scale √γ / √axes, so that a filter's number of waves does not depend on its width.

    Args:
        num_axes: of the coordinates.
        width: filters.
        alpha, beta: shape and rate of the gamma distribution.
        weight_scale: of the frequencies ω.
    """

    def __init__(self, num_axes: int, width: int, alpha: float, beta: float, weight_scale: float):
        super().__init__()
        self.linear = nn.Linear(num_axes, width)
        self.centres = nn.Parameter(torch.empty(width, num_axes).uniform_(-1, 1))
        self.gamma = nn.Parameter(torch.empty(width))
        rates = torch.full((width,), beta, device="cpu")  # a model without memory has no numbers to draw
        with torch.no_grad():
            self.gamma.copy_(torch.distributions.Gamma(torch.full_like(rates, alpha), rates).sample())
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
        exponent = F.linear(squared, columns, -0.5 * gamma * centres.square().sum(dim=-1))
        return exponent.exp() * torch.sin(F.linear(coords, weight, bias))


class GaborField(Field):
    """z_1 = g_1(x), z_(l+1) = (W_l z_l + b_l) ∘ g_(l+1)(x), and W z_k + b for the values, of k filter layers (section 3).

    The scale of the frequencies and the gamma distribution's alpha are shared among the k layers as 1/√k and 1/k, since the
    product of k Gabor functions has k times as many waves and as narrow an envelope. W_l starts from U(-1/√n, 1/√n) for n
    inputs.

    Args:
        num_axes: of the coordinates, any number.
        channels: of the values.
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
