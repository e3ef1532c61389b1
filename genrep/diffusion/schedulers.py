"""diffusers' samplers on our noise levels."""

from typing import Any

import diffusers

from genrep.diffusion.noise_levels import NoiseLevels
from genrep.errors import InputError, did_you_mean

# Latents are not bounded by ±1, so nothing may be clipped to it (the default of DDPM and DDIM).
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "dpm_solver": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "euler": ("EulerDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
}


def make_scheduler(name: str, levels: NoiseLevels) -> Any:
    """A diffusers scheduler that predicts "sample" on `levels`, its steps starting at the noisiest one."""
    return _class_of(name)(**levels.scheduler_config(), **SCHEDULERS[name][1])


def swap_scheduler(name: str, scheduler: Any) -> Any:
    """Another scheduler on the noise levels of a given one."""
    return _class_of(name).from_config(scheduler.config, **SCHEDULERS[name][1])


def scheduler_name(scheduler: Any) -> str:
    """Our name of a scheduler, or its class's."""
    return next(
        (name for name, (kind, _) in SCHEDULERS.items() if kind == type(scheduler).__name__), type(scheduler).__name__
    )


def _class_of(name: str) -> Any:
    if name not in SCHEDULERS:
        raise InputError(f"scheduler {name!r} is not one of {', '.join(SCHEDULERS)}{did_you_mean(name, SCHEDULERS)}")
    return getattr(diffusers, SCHEDULERS[name][0])
