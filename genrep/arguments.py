"""Checks of arguments to public functions: integers and numbers of any kind, and tensors. Errors name the argument.

In signatures `Integer` and `Number` are what `as_integer` and `as_number` accept: Python's, NumPy's and 0-d tensors. The
annotation of a tensor ends in `| Any` if the function itself refuses other types with an InputError.
"""

import math
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, SupportsFloat, SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from genrep.errors import InputError

if TYPE_CHECKING:
    Integer, Number = SupportsIndex, SupportsFloat
else:  # at run time the functions below check, and name the argument, which jaxtyping's checks would not
    Integer = Number = Any


def as_integer(value: Integer, name: str, low: int | None = None, high: int | None = None) -> int:
    """An integer of any kind (not a bool, not 3.0) in `low` to `high`. InputError names the argument."""
    required = "an integer"
    if low is not None:
        required = f"an integer from {low}" if high is None else f"an integer from {low} to {high}"
    try:
        number = None if _is_bool(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (low is not None and number < low) or (high is not None and number > high):
        raise InputError(f"{name} must be {required}; got {shown(value)}")
    return number


def as_integers(values: Any, name: str, low: int | None = None, high: int | None = None) -> list[int]:
    """Integers from a sequence, a 1-d array or a 1-d tensor; a single integer gives a list of one."""
    if isinstance(values, Tensor | np.ndarray):
        values = values.tolist()  # a number for 0-d ones
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        return [as_integer(values, name, low, high)]
    return [as_integer(value, f"every number of {name}", low, high) for value in values]


def as_number(value: Number, name: str, low: float | int = -math.inf, high: float | int = math.inf) -> float:
    """A finite number of any kind (not a bool, not "1.5") in `low` to `high`. InputError names the argument."""
    try:  # float("1.5") is a number too, so only types that are numbers themselves are converted
        number = math.nan if _is_bool(value) or not hasattr(value, "__float__") else float(value)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not (math.isfinite(number) and low <= number <= high):
        bounds = f" from {low:g}" if high == math.inf and low > -math.inf else ""
        bounds = f" from {low:g} to {high:g}" if high < math.inf else bounds
        raise InputError(f"{name} must be a finite number{bounds}; got {shown(value)}")
    return number


def as_rate(value: Number, name: str) -> float:
    """A finite number above 0, such as a learning rate. InputError names the argument."""
    try:
        number = as_number(value, name)
    except InputError:
        number = 0.0
    if number <= 0:
        raise InputError(f"{name} must be a finite number above 0; got {shown(value)}")
    return number


def as_floats(values: Any, name: str, axes: str, dtype: torch.dtype | None = None) -> Tensor:
    """A floating-point tensor, converted to `dtype` if given; `axes` describes its shape in the message.

    InputError for anything else: arrays, lists, pictures, and integers, whose range is not known.
    """
    if not isinstance(values, Tensor):
        hint = ": convert it with torch.from_numpy" if isinstance(values, np.ndarray) else ""
        kind = f"{type(values).__module__}.{type(values).__qualname__}".removeprefix("builtins.")
        raise InputError(f"{name} must be a torch tensor {axes} of floating-point numbers; got {kind}{hint}")
    if not values.is_floating_point():
        hint = ": convert pixels of 0 to 255 with genrep.render.from_uint8" if values.dtype == torch.uint8 else ""
        raise InputError(f"{name} must be floating-point numbers; got {values.dtype}{hint}")
    return values if dtype is None else values.to(dtype)


def check_finite(values: Tensor, name: str) -> None:
    """InputError for NaN or infinite values. It synchronises with a GPU: once per call, and not in loops (`in_training`)."""
    if torch.compiler.is_compiling() or values.is_meta or isinstance(values, FakeTensor):
        return  # there are no values to check
    finite = values.detach().isfinite()
    if not bool(finite.all()):
        count = int(finite.logical_not().sum())
        raise InputError(f"{name} must be finite; {count} of {finite.numel()} numbers are NaN or infinite")


def in_training(module: nn.Module, *tensors: Tensor) -> bool:
    """Whether a graph is recorded, as in a training loop, which must not wait for a GPU."""
    return torch.is_grad_enabled() and (module.training or any(tensor.requires_grad for tensor in tensors))


def shown(value: object) -> str:
    """A value as shown in a message: one line of at most 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _is_bool(value: object) -> bool:
    return isinstance(value, bool | np.bool_) or (isinstance(value, Tensor) and value.dtype == torch.bool)
