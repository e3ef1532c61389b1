"""diffusers' samplers on our noise levels."""

from typing import Any

import diffusers

from genrep.diffusion.noise_levels import NoiseLevels
from genrep.errors import InputError, did_you_mean

# Latents are not bounded by ±1, so nothing may be clipped to it (the default of DDPM and DDIM).
#
# Spacings are chosen by what the exact denoiser of Gaussian data gives (tests/diffusion/test_noise_levels.py): steps that
# are even in time ("trailing") end in too long a last step, which loses the variance of small components. With 30 of them,
# at shift 1 and a deviation of 0.3, samples of DPM-Solver++ and of Heun have 0.94 of it (at shift 4: 0.53 and 0.55); steps
# that are even in log-SNR keep it to 2 % at all these shifts. Euler, of first order, then needs 120 steps for 3 %.
# diffusers' DDPM and DDIM know no other spacing than in time, and step by T // steps levels, so give steps that divide T:
# at shift 1, DDIM comes to 0.98 with 250 of them and DDPM to 0.95, and to 0.985 with 1000.
EVEN_IN_LOG_SNR = {"timestep_spacing": "linspace", "use_exponential_sigmas": True, "use_karras_sigmas": False}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    "dpm_solver": (
        "DPMSolverMultistepScheduler",
        # its own name for steps that are even in log-SNR; its exponential sigmas start one level below the noisiest
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "timestep_spacing": "trailing", "use_lu_lambdas": True},
    ),
    "euler": ("EulerDiscreteScheduler", EVEN_IN_LOG_SNR),
    "heun": ("HeunDiscreteScheduler", EVEN_IN_LOG_SNR),
}


def make_scheduler(name: str, levels: NoiseLevels) -> Any:
    """A diffusers scheduler that predicts "sample" on `levels`, its steps starting at the noisiest one."""
    return _class_of(name)(**{**levels.scheduler_config(), **SCHEDULERS[name][1]})


def swap_scheduler(name: str, scheduler: Any) -> Any:
    """Another scheduler on the noise levels of a given one, with the spacing of its own kind."""
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
