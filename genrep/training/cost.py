"""The cost of evaluating a field."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from genrep.models.field import NeuralField


def multiply_adds(field: NeuralField, num_points: int = 512) -> int:
    """Multiply-adds per point in matrix products, counted in a forward pass by PyTorch's FlopCounterMode."""
    coords = torch.rand(num_points, len(field.shape), generator=torch.Generator().manual_seed(0)) * 2 - 1
    prepared, counter = field.prepare(coords.to(field.device)), FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        field(prepared)
    return round(counter.get_total_flops() / 2 / num_points)
