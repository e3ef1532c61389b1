"""Linear layers whose outputs are arguments of sines."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def full_precision(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 of float64: an angle of some hundred radians in bfloat16 is off by one."""
    return torch.promote_types(dtype, torch.float32)


class AngleLinear(nn.Linear):
    """ω (W x + b) as one product, (ωW) x + ωb, in float32 or better whatever autocast and the weights' number type are.

    Args:
        inputs, outputs: as of `nn.Linear`, whose initialisation it starts from.
        omega: ω, fixed.
    """

    def __init__(self, inputs: int, outputs: int, omega: float | int):
        super().__init__(inputs, outputs)
        self.omega = float(omega)

    def folded(self) -> tuple[Float[Tensor, "outputs inputs"], Float[Tensor, " outputs"]]:
        """ωW and ωb in float32 or better."""
        dtype = full_precision(self.weight.dtype)
        return self.omega * self.weight.to(dtype), self.omega * self.bias.to(dtype)

    def forward(self, input: Float[Tensor, "*points inputs"]) -> Float[Tensor, "*points outputs"]:
        weight, bias = self.folded()
        with torch.autocast(input.device.type, enabled=False):
            return F.linear(input.to(weight.dtype), weight, bias)


def siren_bound(inputs: int, omega: float, first: bool) -> float:
    """The bound c of the uniform distribution U(-c, c) that a SIREN's weights start from.

    1 / n of the first layer and √(6 / n) / ω of the later ones, n inputs each (Sitzmann et al. 2020, section 3.2 and
    supplement 1.5): ω cancels in the later layers' angles, which come out about N(0, 1) at any depth.
    """
    return 1 / inputs if first else math.sqrt(6 / inputs) / omega
