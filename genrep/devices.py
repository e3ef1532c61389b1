"""The device that a script runs on, and what depends on it. The only place that asks torch which devices exist."""

import os
import re
import sys
from typing import Any

import torch

from genrep.errors import InputError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtypes by the names that configs and options use."""


def move(model: Any, device: torch.device | str, dtype: str) -> Any:
    """Move a model or pipeline to a device and to a dtype, given by its name in `DTYPES`."""
    # Weights are loaded in float32. Passing it on again would make diffusers warn about modules to keep in float32, even if
    # there are none.
    return model.to(device) if dtype == "fp32" else model.to(device, DTYPES[dtype])


def choose_device(asked: str | None = None) -> torch.device:
    """The requested device; by default CUDA if available, else Apple's MPS, else the CPU.

    With several processes each takes the GPU of its rank. ACCELERATE_USE_CPU=true makes the CPU the default.

    Args:
        asked: "cpu", "mps", "cuda" or "cuda:1".

    Raises:
        InputError: an unknown device, or one that is not available.
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
            available = "no CUDA device" if not count else f"only {', '.join(f'cuda:{n}' for n in range(count))}"
            raise InputError(f"device {asked}: torch finds {available} here; use cpu, or leave the option out")
        return torch.device("cuda", number)
    return torch.device(asked)


def float64_device(device: torch.device) -> torch.device:
    """The device for float64 computations: `device` itself, or the CPU for Apple's GPUs, which have no float64.

    Move first, then convert, `x.to(float64_device(x.device)).double()`: `to(device, dtype)` in one step may convert before
    it moves.
    """
    return torch.device("cpu") if device.type == "mps" else device


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its queued work; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process in bytes: on the GPU (on MPS, which has no peak, the current memory), otherwise RAM."""
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
    """Memory of a device in bytes: a GPU's memory, or the machine's RAM."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    if sys.platform == "win32":
        import psutil

        return int(psutil.virtual_memory().total)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(
    num_bytes: int, device: torch.device, what: str, advice: str = "render a smaller size, or one region at a time"
) -> None:
    """InputError with some advice if something exceeds a device's total memory."""
    # Total rather than free memory: a refusal must not depend on what else happens to run.
    total = total_memory(device)
    if num_bytes > total:
        raise InputError(
            f"{what} would take {num_bytes / 2**30:,.0f} GiB, but {device} has {total / 2**30:,.0f} GiB: {advice}"
        )
