"""What a dry run prints: parameters by part, memory, data."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from genrep.data import BaseDataSpec
from genrep.data.signals import SignalData
from genrep.nn.linear import ComplexLinear

M = TypeVar("M")


def on_meta(build: Callable[[], M]) -> M:
    """The result of `build`, with weights on torch's meta device, which takes no memory."""
    with torch.device("meta"):
        return build()


def num_parameters(module: nn.Module) -> int:
    """Number of parameters of a module; a complex number counts once."""
    layers = [layer for layer in module.modules() if isinstance(layer, ComplexLinear)]
    return num_real_numbers(module) - sum(num_real_numbers(layer) for layer in layers) // 2


def num_real_numbers(module: nn.Module) -> int:
    """Parameters of a module; a complex number counts twice."""
    return sum(parameter.numel() for parameter in module.parameters())


def parameters_text(module: nn.Module) -> str:
    """How many parameters a module has, in words: both counts where they differ."""
    parameters, real_numbers = num_parameters(module), num_real_numbers(module)
    also = "" if parameters == real_numbers else f" ({real_numbers:,} real numbers)"
    return f"{parameters:,} parameters{also}"


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
