"""diffusers' schedulers on our noise levels."""

from typing import Any

import diffusers

from genrep.diffusion.noise_levels import NoiseLevels
from genrep.errors import InputError, did_you_mean

# Latents are not bounded by ±1, so nothing may be clipped to it, which is the default of DDPM and DDIM.
#
# Spacings were chosen with the exact denoiser of Gaussian data (tests/diffusion/test_noise_levels.py). Steps that are even
# in time ("trailing") end with too long a step, which loses the variance of small components: at shift 1, data of standard
# deviation 0.3 keep 0.94 of it with 30 steps of DPM-Solver++ or Heun (0.53 and 0.55 at shift 4). Steps that are even in
# log-SNR keep it to within 2 % at all these shifts; Euler, of first order, then needs 120 steps for 3 %. diffusers' DDPM and
# DDIM only space steps in time, and advance by T // steps levels, so the number of steps should divide T: at shift 1 DDIM
# reaches 0.98 with 250 steps, and DDPM 0.95, or 0.985 with 1000.
EVEN_IN_LOG_SNR = {"timestep_spacing": "linspace", "use_exponential_sigmas": True, "use_karras_sigmas": False}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    "dpm_solver": (
        "DPMSolverMultistepScheduler",
        # `use_lu_lambdas` is its name for steps even in log-SNR; its exponential sigmas start one level below the noisiest
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "timestep_spacing": "trailing", "use_lu_lambdas": True},
    ),
    "euler": ("EulerDiscreteScheduler", EVEN_IN_LOG_SNR),
    "heun": ("HeunDiscreteScheduler", EVEN_IN_LOG_SNR),
}


def make_scheduler(name: str, levels: NoiseLevels) -> Any:
    """A diffusers scheduler that predicts "sample" on `levels`, with steps that start at the noisiest one."""
    return _class_of(name)(**{**levels.scheduler_config(), **SCHEDULERS[name][1]})


def swap_scheduler(name: str, scheduler: Any) -> Any:
    """The named scheduler on the noise levels of `scheduler`, with the spacing that suits it."""
    return _class_of(name).from_config(scheduler.config, **SCHEDULERS[name][1])


def scheduler_name(scheduler: Any) -> str:
    """Our name for a scheduler, or the name of its class if it is not in `SCHEDULERS`."""
    return next(
        (name for name, (kind, _) in SCHEDULERS.items() if kind == type(scheduler).__name__), type(scheduler).__name__
    )


def _class_of(name: str) -> Any:
    if name not in SCHEDULERS:
        raise InputError(
            f"scheduler must be one of {', '.join(SCHEDULERS)}; got {name!r}{did_you_mean(name, SCHEDULERS)}"
        )
    return getattr(diffusers, SCHEDULERS[name][0])
