"""Device, processes and precision of a script, through accelerate."""

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
    """An Accelerator on the device of `choose_device`, with as many processes as were launched.

    Args:
        precision: "fp32", or "bf16": autocast to bfloat16, and on NVIDIA GPUs TF32 in the products that stay in float32.
        accumulation: parts of a step.
        tracker: of the metrics, or None.
        folder: where a tracker writes.
        device: as asked for by the user; None is the best there is.

    Raises:
        InputError: a device or a tracker that is not there, or processes that each run alone.
    """
    if tracker is not None:
        from accelerate.tracking import get_available_trackers

        available = [str(getattr(name, "value", name)) for name in get_available_trackers()]
        if tracker not in available:
            raise InputError(
                f"run.tracker {tracker!r} is not installed; installed: {', '.join(available) or 'none'}. pip install {tracker}, or leave it out"
            )
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and missing:
        raise InputError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and {' and '.join(missing)} not set, so the processes cannot find each other: launch "
            "them with torchrun or accelerate launch, or unset WORLD_SIZE to run one"
        )
    chosen = choose_device(device)
    if device is not None or chosen.type != "cuda":  # of several GPUs accelerate gives each process its own
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(chosen)
    torch.set_float32_matmul_precision("high" if precision == "bf16" else "highest")
    accelerator = Accelerator(
        cpu=chosen.type == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
        gradient_accumulation_steps=accumulation,
        log_with=tracker,
        project_dir=str(folder) if folder else None,
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise InputError(
            f"{launched} processes were launched but each runs alone. Use torchrun --nproc_per_node N, or accelerate launch "
            "--multi_gpu --num_processes N; on machines without a GPU set ACCELERATE_USE_CPU=true as well"
        )
    return accelerator
