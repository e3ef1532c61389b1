"""Noise levels: the schedule, its shift, how training draws levels and what it makes of them."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrep.diffusion import NoiseSpec
from genrep.errors import InputError


class NoiseLevels:
    """x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε on T levels (DDPM, linear betas), SNR_t = ᾱ_t / (1 - ᾱ_t).

    `shift` s lowers every log-SNR by 2 ln s, as more or wider tokens need: noise that hides one number is seen through
    when many correlated numbers carry it. Samplers get the same levels through `scheduler_config`.

    Args:
        spec: schedule, shift, weighting and density.
        latent_shape: (R, D), for `shift: auto`.

    Raises:
        InputError: a density so far from all levels that none has a weight.
    """

    def __init__(self, spec: NoiseSpec, latent_shape: tuple[int, int]):
        self.spec = spec
        self.shift = math.sqrt(math.prod(latent_shape) / 4096) if spec.shift == "auto" else float(spec.shift)
        betas = np.linspace(spec.beta_start, spec.beta_end, spec.num_timesteps, dtype=np.float64)
        signal = np.cumprod(1 - betas)
        snr = signal / (1 - signal) / self.shift**2
        self.alphas_cumprod = torch.from_numpy(snr / (1 + snr))  # [T], float64
        self.log_snr = torch.from_numpy(np.log(snr))  # [T], falling
        self._cumulative = self._density_cumulative()

    def scheduler_config(self) -> dict[str, object]:
        """Arguments for any diffusers scheduler that predicts "sample": these levels, steps that visit the noisiest one."""
        kept = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod])
        return {
            "num_train_timesteps": self.spec.num_timesteps,
            "trained_betas": (1 - kept[1:] / kept[:-1]).tolist(),
            "prediction_type": "sample",
            "timestep_spacing": "trailing",
        }

    def timesteps(self, uniform: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Numbers in [0, 1) => timesteps with the density of the spec (inverse of its cumulative sum)."""
        return torch.searchsorted(self._cumulative, uniform.double(), right=True).clamp_max(self.spec.num_timesteps - 1)

    def add_noise(
        self,
        latents: Float[Tensor, "batch tokens latent"],
        noise: Float[Tensor, "batch tokens latent"],
        timesteps: Tensor,
    ) -> Float[Tensor, "batch tokens latent"]:
        """x_t; timesteps on the CPU, so that a GPU need not wait."""
        signal = self.alphas_cumprod[timesteps][:, None, None]
        scale, deviation = (
            part.to(latents.dtype).to(latents.device, non_blocking=True)
            for part in (signal.sqrt(), (1 - signal).sqrt())
        )
        return scale * latents + deviation * noise

    def weight(self, timesteps: Tensor) -> Float[Tensor, " batch"]:
        """Weight of the x0 loss: 1, or min(SNR, γ) (min-SNR, for an x0 target); all on the CPU."""
        snr = self.log_snr[timesteps].exp().float()
        return snr.clamp_max(self.spec.gamma) if self.spec.weighting == "min_snr" else torch.ones_like(snr)

    def _density_cumulative(self) -> Tensor:
        if self.spec.density == "uniform":
            mass = torch.ones_like(self.log_snr)
        else:  # density of log-SNR times the stretch of log-SNR that a timestep covers
            mass = torch.exp(-0.5 * ((self.log_snr - self.spec.density_mean) / self.spec.density_std) ** 2)
            mass = mass * torch.gradient(self.log_snr)[0].abs()
        if not float(mass.sum()) > 0:
            raise InputError(
                f"diffusion.noise: a normal density of mean {self.spec.density_mean:g} and deviation {self.spec.density_std:g} "
                f"leaves every level out: log-SNR goes from {float(self.log_snr[0]):.1f} to {float(self.log_snr[-1]):.1f}; "
                "choose a mean in that range"
            )
        return (mass / mass.sum()).cumsum(0)
