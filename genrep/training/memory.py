"""How much memory a training step will take, without taking it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from genrep.training.specs import EMASpec, OptimizerSpec


def training_memory(
    build: Callable[[], nn.Module],
    loss: Callable[[Any], Tensor],
    optimizer: OptimizerSpec,
    ema: EMASpec | None,
) -> tuple[int, int]:
    """(state, activations) in bytes of a training step in fp32: what stays from step to step, what the backward needs.

    The state is weights, gradients, the optimizer's averages (two for AdamW, one for Muon's matrices) and the average of
    the weights; on many GPUs buckets of gradients come on top, once the weights. The activations are what autograd keeps,
    counted on tensors without data, and three times the largest of them for the gradients on the way back. Work space of
    single operations comes on top.

    Args:
        build: makes the model.
        loss: model -> the loss of one part of a step.
        optimizer, ema: specs of the run.
    """
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        alive.append(storage)
        return tensor

    alive: list[Any] = []  # a storage that is freed may give its address to another
    with FakeTensorMode():
        model = build()
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = loss(model)
        weights = sum(parameter.numel() for parameter in model.parameters())
        matrices = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
        del result
    averages = 2 * weights - (matrices if optimizer.type == "muon" else 0)
    state = 4 * (2 * weights + averages + (weights if ema is not None else 0))
    activations = [size for address, size in kept.items() if address not in own]
    return state, sum(activations) + 3 * max(activations)
