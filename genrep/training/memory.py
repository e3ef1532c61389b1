"""An estimate of the memory a training step needs, made without allocating it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from genrep.training.muon import matrices_of
from genrep.training.specs import EMASpec, OptimizerSpec


def training_memory(
    build: Callable[[], nn.Module],
    loss: Callable[[Any], Tensor],
    optimizer: OptimizerSpec,
    ema: EMASpec | None,
) -> tuple[int, int]:
    """(state, activations) of a training step in fp32, in bytes: what persists between steps, and what backward needs.

    The state is weights, gradients, the optimizer's averages (two for AdamW, one for Muon's matrices) and the average of
    the weights. The activations are the tensors that autograd saves, plus three times the largest of them for gradients
    during backward. Not counted: the work space of single operations, and on several GPUs DDP's gradient buckets, which
    are as large as the weights.

    Args:
        build: constructs the model.
        loss: model -> the loss of one part of a step.
        optimizer, ema: specs of the run.
    """
    saved_bytes: dict[int, int] = {}
    alive: list[Any] = []

    def save(tensor: Tensor) -> Tensor:
        # by storage, because views of one tensor that several operations save take its memory only once
        storage = tensor.untyped_storage()
        saved_bytes[storage._cdata] = storage.nbytes()
        alive.append(storage)  # a freed storage's address could be reused, and the two counted as one
        return tensor

    # fake tensors have shapes but no data: a model that fits no machine can be measured on any
    with FakeTensorMode():
        model = build()
        parameter_storages = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            result = loss(model)
        weights = sum(parameter.numel() for parameter in model.parameters())
        matrices = sum(weight.numel() for weight in matrices_of(model))
        del result
    averages = 2 * weights - (matrices if optimizer.type == "muon" else 0)
    state = 4 * (2 * weights + averages + (weights if ema is not None else 0))
    activations = [size for address, size in saved_bytes.items() if address not in parameter_storages]
    return state, sum(activations) + 3 * max(activations)
