"""Noise levels: the schedule, its shift, and how training draws and weights the levels."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrep.diffusion import NoiseSpec
from genrep.errors import InputError


class NoiseLevels:
    """x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε on T levels (DDPM, linear betas), SNR_t = ᾱ_t / (1 - ᾱ_t).

    A `shift` of s lowers every log-SNR by 2 ln s. Samplers get the same levels through `scheduler_config`.

    Args:
        spec: schedule, shift, weighting and density.
        latent_shape: (R, D), for `shift: auto`.

    Raises:
        InputError: a density so far from all levels that none has any weight.
    """

    def __init__(self, spec: NoiseSpec, latent_shape: tuple[int, int]):
        self.spec = spec
        # More or wider tokens need more noise: noise that hides a single number can be averaged away when many correlated
        # numbers carry the same content. n of them raise the SNR n-fold, which a shift of sqrt(n) undoes. auto counts n from
        # 4096 numbers.
        self.shift = math.sqrt(math.prod(latent_shape) / 4096) if spec.shift == "auto" else float(spec.shift)
        betas = np.linspace(spec.beta_start, spec.beta_end, spec.num_timesteps, dtype=np.float64)
        signal = np.cumprod(1 - betas)
        snr = signal / (1 - signal) / self.shift**2
        self.alphas_cumprod = torch.from_numpy(snr / (1 + snr))  # [T], float64
        self.log_snr = torch.from_numpy(np.log(snr))  # [T], falling
        self._cumulative = self._density_cumulative()

    def scheduler_config(self) -> dict[str, object]:
        """Arguments for any diffusers scheduler that predicts "sample": these levels, with steps that start at the noisiest."""
        # diffusers takes betas: 1 - β_t = ᾱ_t / ᾱ_(t-1), with ᾱ = 1 before the first level.
        alphas_cumprod = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod])
        return {
            "num_train_timesteps": self.spec.num_timesteps,
            "trained_betas": (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).tolist(),
            "prediction_type": "sample",
            "timestep_spacing": "trailing",  # the default, "leading", never visits the noisiest level
        }

    def timesteps(self, uniform: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Uniform numbers in [0, 1) => timesteps with the density of the spec, by inverting its cumulative sum."""
        return torch.searchsorted(self._cumulative, uniform.double(), right=True).clamp_max(self.spec.num_timesteps - 1)

    def add_noise(
        self,
        latents: Float[Tensor, "batch tokens latent"],
        noise: Float[Tensor, "batch tokens latent"],
        timesteps: Tensor,
    ) -> Float[Tensor, "batch tokens latent"]:
        """x_t. Timesteps are on the CPU, where indexing the levels does not wait for a GPU."""
        signal = self.alphas_cumprod[timesteps][:, None, None]
        scale, deviation = (
            part.to(latents.dtype).to(latents.device, non_blocking=True)
            for part in (signal.sqrt(), (1 - signal).sqrt())
        )
        return scale * latents + deviation * noise

    def weight(self, timesteps: Tensor) -> Float[Tensor, " batch"]:
        """Weight of the x0 loss: 1, min(SNR, γ) or min(SNR + 1, γ); on the CPU, like `timesteps`."""
        # For an ε target min-SNR's weight is min(SNR, γ) / SNR; an x0 loss is an ε loss divided by SNR, and a loss of the
        # velocity sqrt(ᾱ) ε - sqrt(1 - ᾱ) x_0 divided by SNR + 1.
        snr = self.log_snr[timesteps].exp().float()
        if self.spec.weighting == "plain":
            return torch.ones_like(snr)
        return (snr + 1 if self.spec.weighting == "velocity" else snr).clamp_max(self.spec.gamma)

    def _density_cumulative(self) -> Tensor:
        """The cumulative probability of the timesteps, [T]."""
        if self.spec.density == "uniform":
            mass = torch.ones_like(self.log_snr)
        else:  # the density of log-SNR times the interval of log-SNR that a timestep covers
            mass = torch.exp(-0.5 * ((self.log_snr - self.spec.density_mean) / self.spec.density_std) ** 2)
            mass = mass * torch.gradient(self.log_snr)[0].abs()
        if not float(mass.sum()) > 0:
            raise InputError(
                f"diffusion.noise: density_mean must be within the levels' log-SNR, {float(self.log_snr[-1]):.1f} to "
                f"{float(self.log_snr[0]):.1f}; got {self.spec.density_mean:g} with density_std {self.spec.density_std:g}, which "
                "gives no level any weight"
            )
        return (mass / mass.sum()).cumsum(0)
