"""The device that a script runs on, and what depends on it: the one place that asks torch which devices there are."""

import os
import re
import sys
from typing import Any

import torch

from genrep.errors import InputError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Number types by the names that configs and options use."""


def move(model: Any, device: torch.device | str, dtype: str) -> Any:
    """A model or pipeline on a device, in a number type by its name in `DTYPES`.

    Weights are loaded in float32. diffusers warns of modules to be kept in float32 whenever a number type is named, also
    where there are none, so that float32 is not named.
    """
    return model.to(device) if dtype == "fp32" else model.to(device, DTYPES[dtype])


def choose_device(asked: str | None = None) -> torch.device:
    """The device asked for; by default CUDA where there is one, else Apple's MPS, else the CPU.

    With several processes each takes the GPU of its own rank. ACCELERATE_USE_CPU=true keeps the default on the CPU.

    Args:
        asked: "cpu", "mps", "cuda" or "cuda:1".

    Raises:
        InputError: a device of another name, or one that is not there.
    """
    if asked is None:
        on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "y", "on", "t")
        if on_cpu or not (torch.cuda.is_available() or torch.backends.mps.is_available()):
            return torch.device("cpu")
        if not torch.cuda.is_available():
            return torch.device("mps")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if not re.fullmatch(r"cpu|mps|cuda(:[0-9]+)?", asked):
        raise InputError(f"device must be cpu, mps, cuda or cuda:N; got {asked!r}")
    if asked == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps: torch finds no Apple GPU here; use cpu, or leave the option out")
    if asked.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        number = int(asked.partition(":")[2] or 0)
        if number >= count:
            there = "no CUDA device" if not count else f"only {', '.join(f'cuda:{n}' for n in range(count))}"
            raise InputError(f"device {asked}: torch finds {there} here; use cpu, or leave the option out")
        return torch.device("cuda", number)
    return torch.device(asked)


def float64_device(device: torch.device) -> torch.device:
    """Where to compute in float64 what belongs on `device`: there, or on the CPU for Apple's GPUs, which have no float64.

    Move first and convert then, `x.to(float64_device(x.device)).double()`: `to(device, dtype)` in one step may convert
    where the tensor is.
    """
    return torch.device("cpu") if device.type == "mps" else device


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that was asked of it; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has held: of the GPU's memory (MPS keeps no peak: what it holds now), else of RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, kilobytes elsewhere


def total_memory(device: torch.device) -> int:
    """Bytes that a device has: a GPU's memory, else the machine's RAM."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    if sys.platform == "win32":
        import psutil

        return int(psutil.virtual_memory().total)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(num_bytes: int, device: torch.device, what: str) -> None:
    """InputError for what a device cannot hold, even if it held nothing else."""
    total = total_memory(device)
    if num_bytes > total:
        raise InputError(
            f"{what} would take {num_bytes / 2**30:,.0f} GiB, and {device} has {total / 2**30:,.0f} GiB: "
            "render a smaller size, or one region after the other"
        )
