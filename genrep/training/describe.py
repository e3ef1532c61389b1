"""What a dry run says: parameters by part, memory, data."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from genrep.data import BaseDataSpec
from genrep.data.signals import SignalData

M = TypeVar("M")


def on_meta(build: Callable[[], M]) -> M:
    """What `build` makes, without memory for its weights (torch's meta device)."""
    with torch.device("meta"):
        return build()


def num_parameters(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def print_parts(name: str, model: nn.Module) -> None:
    """Parameters of a model, by part."""
    print(f"{name}: {num_parameters(model):,} parameters")
    for part, module in model.named_children():
        print(f"  {part}: {num_parameters(module):,}")


def print_memory(part: int, state: int, activations: int) -> None:
    """What `training_memory` found, for a part of a step of `part` images."""
    print(
        f"memory of a training step in fp32: {state / 2**30:.2f} GiB of weights, gradients and averages, and for {part} images at a "
        f"time (run.batch / run.accumulation / processes) {activations / 2**30:.2f} GiB of activations; work space comes on top"
    )


def check_data(spec: BaseDataSpec, shape: tuple[int, ...], channels: int) -> SignalData:
    """Open both splits and read one signal of each, for a dry run; returns the training split."""
    light = spec.light().unchecked()
    train, held_out = (light.open(split, shape, channels) for split in ("train", "held_out"))
    for data in (train, held_out):
        data.read([0])
        print(f"data: {data.describe()}")
    return train
