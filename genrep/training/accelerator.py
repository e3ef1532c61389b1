"""The device, processes and precision of a script, through accelerate."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator

from genrep.devices import choose_device
from genrep.errors import InputError


def make_accelerator(
    precision: str = "fp32",
    accumulation: int = 1,
    tracker: str | None = None,
    folder: Path | None = None,
    device: str | None = None,
) -> Accelerator:
    """An Accelerator on the device that `choose_device` picks, with as many processes as were launched.

    Args:
        precision: "fp32", or "bf16": autocast to bfloat16, and on NVIDIA GPUs TF32 for the products that stay in float32.
        accumulation: number of parts a step's batch is computed in.
        tracker: name of the metrics tracker, or None.
        folder: where the tracker writes.
        device: the device the user asked for; None picks the best one available.

    Raises:
        InputError: the device or tracker is not available, or the launched processes do not form one group.
    """
    # accelerate only warns about a missing tracker and then logs nothing
    if tracker is not None:
        from accelerate.tracking import get_available_trackers

        available = [str(getattr(name, "value", name)) for name in get_available_trackers()]
        if tracker not in available:
            raise InputError(
                f"run.tracker {tracker!r} is not installed (installed: {', '.join(available) or 'none'}): run pip install "
                f"{tracker}, or leave run.tracker out"
            )
    # torch's rendezvous reads these from the environment
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and missing:
        raise InputError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set, so "
            "the processes cannot find each other: launch them with torchrun or accelerate launch, or unset WORLD_SIZE to run a "
            "single process"
        )
    chosen = choose_device(device)
    if device is not None or chosen.type != "cuda":  # left to itself, accelerate gives each process its own GPU
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(chosen)
    # a global setting, so it is set back for a run in fp32 that follows one in bf16 within the same process
    torch.set_float32_matmul_precision("high" if precision == "bf16" else "highest")
    accelerator = Accelerator(
        cpu=chosen.type == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
        gradient_accumulation_steps=accumulation,
        log_with=tracker,
        project_dir=str(folder) if folder else None,
    )
    # accelerate does not report processes that fail to form a group: each would train alone, all in the same folder
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise InputError(
            f"{launched} processes were launched, but each is running on its own. Use torchrun --nproc_per_node N, or accelerate "
            "launch --multi_gpu --num_processes N; on a machine without a GPU, also set ACCELERATE_USE_CPU=true"
        )
    return accelerator
