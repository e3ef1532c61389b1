"""What a dry run prints: parameters by part, memory, data."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from genrep.data import BaseDataSpec
from genrep.data.signals import SignalData

M = TypeVar("M")


def on_meta(build: Callable[[], M]) -> M:
    """The result of `build`, with weights on torch's meta device, which takes no memory."""
    with torch.device("meta"):
        return build()


def num_parameters(module: nn.Module) -> int:
    """Number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def print_parts(name: str, model: nn.Module) -> None:
    """Print the number of parameters of a model and of each part."""
    print(f"{name}: {num_parameters(model):,} parameters")
    for part, module in model.named_children():
        print(f"  {part}: {num_parameters(module):,}")


def print_memory(part: int, state: int, activations: int) -> None:
    """Print the two numbers of `training_memory`, for `part` images at a time."""
    print(
        f"memory of a training step in fp32: {state / 2**30:.2f} GiB for weights, gradients and averages, plus {activations / 2**30:.2f} "
        f"GiB of activations for {part} images at a time (run.batch / run.accumulation / processes), plus work space"
    )


def check_data(spec: BaseDataSpec, shape: tuple[int, ...], channels: int) -> SignalData:
    """Open both splits and read one signal from each, for a dry run; returns the training split."""
    light = spec.light().unchecked()  # checking or decoding every image takes minutes on a large data set
    train, held_out = (light.open(split, shape, channels) for split in ("train", "held_out"))
    for data in (train, held_out):
        data.read([0])
        print(f"data: {data.describe()}")
    return train
