"""Linear layers: two consecutive ones merged into one, and complex ones."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def linear_after(first: nn.Linear, second: nn.Linear) -> Callable[[Tensor], Tensor]:
    """`second(first(x))` with the two weights multiplied beforehand: one product per point instead of two."""
    weight = second.weight @ first.weight
    bias = F.linear(first.bias, second.weight, second.bias)
    return lambda values: F.linear(values, weight, bias)


class ComplexLinear(nn.Module):
    """W z + b with complex weights, computed in real numbers: z and the result are `[real parts, imaginary parts]`.

    Weights are stored as real numbers, since fused optimizers, half precision, reductions between processes and some
    devices do not support complex ones. `weight[0]` and `bias[0]` are the real parts, `weight[1]` and `bias[1]` the
    imaginary parts; an Adam step on them is the same as on complex weights. Both parts are initialised from
    U(-1/√inputs, 1/√inputs), like PyTorch's complex `nn.Linear`.

    Args:
        inputs, outputs: number of complex features.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(2, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(2, outputs).uniform_(-bound, bound))

    def forward(self, values: Float[Tensor, "points twice_inputs"]) -> Float[Tensor, "points twice_outputs"]:
        """(Wr + iWi)(x + iy) = (Wr x - Wi y) + i(Wi x + Wr y), as one product."""
        real, imaginary = self.weight.to(values.dtype)
        rows = torch.cat([torch.cat([real, -imaginary], dim=1), torch.cat([imaginary, real], dim=1)])
        return F.linear(values, rows, self.bias.to(values.dtype).flatten())

    def real_part(self, values: Float[Tensor, "points twice_inputs"]) -> Float[Tensor, "points outputs"]:
        """The real half of `forward`, at half its cost."""
        real, imaginary = self.weight.to(values.dtype)
        return F.linear(values, torch.cat([real, -imaginary], dim=1), self.bias[0].to(values.dtype))
