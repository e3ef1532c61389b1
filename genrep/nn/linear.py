"""Linear layers in a row."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


def linear_after(first: nn.Linear, second: nn.Linear) -> Callable[[Tensor], Tensor]:
    """`second(first(x))` as one product, of the product of the two weights: it saves one of them at every point."""
    weight = second.weight @ first.weight
    bias = F.linear(first.bias, second.weight, second.bias)
    return lambda values: F.linear(values, weight, bias)
