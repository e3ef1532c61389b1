"""A stand-in for Apple's GPU: tensors that claim to be on `mps`, compute on the CPU, and refuse what `mps` refuses.

The real device has no float64, and its operations refuse tensors of other devices (except single numbers and indices).
Everything else is computed by the CPU, so results can be compared, and code that depends on the device being `mps` runs
here as it would there. Other limitations or differences of the real device are not imitated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

MPS = torch.device("mps", 0)
MAY_MIX = {"copy_", "_foreach_copy_", "index", "index_put_", "_index_put_impl_"}
"""Operations that accept tensors of several devices."""


class AppleTensor(Tensor):
    """A tensor on the stand-in; `held` has its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # operations only reach `__torch_dispatch__`
    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "AppleTensor":
        if held.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        tensor = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",  # to torch's C++ side, which has no `mps` here; it must not be the CPU, or `cpu()` would do nothing
        )
        tensor.held = held
        return tensor

    @property
    def device(self) -> torch.device:  # to Python
        return MPS

    def tolist(self) -> Any:
        return self.held.tolist()

    def new_tensor(self, data: Any) -> Tensor:
        return torch.tensor(data, dtype=self.dtype, device=MPS)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    is_here = any(isinstance(tensor, AppleTensor) for tensor in tensors)
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    name = func.overloadpacket.__name__
    if is_here and name not in MAY_MIX and any(t.dim() and not isinstance(t, AppleTensor) for t in tensors):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found at least two: mps:0 and cpu")
    if is_here and device == "cpu" and kwargs.get("dtype") == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64: mps converts before it copies")
    goes_here = device in ("mps", "meta")
    if goes_here:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inputs = {id(held): tensor for tensor in tensors for held in [_held(tensor)]}
    result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    stays = goes_here or (is_here and device is None)

    def back(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or id(leaf) in inputs:  # what is written in place stays the tensor that it was
            return inputs.get(id(leaf), leaf)
        return AppleTensor(leaf) if stays else leaf

    return tree_map(back, result)


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, AppleTensor) else leaf


class _Mode(TorchDispatchMode):
    """Intercepts operations that create tensors on `mps` or move them there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


@contextmanager
def apple_gpu() -> Iterator[torch.device]:
    """The device `mps`, available inside the block."""
    lifts = torch._C._only_lift_cpu_tensors()
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="mps") asks the mode, not the missing backend
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # Module.to makes new parameters
    try:
        with _Mode(), patch.object(torch.mps, "recommended_max_memory", lambda: 16 * 2**30):
            yield MPS
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
