"""Noise levels in closed form, and the same levels in diffusers' samplers."""

import math

import numpy as np
import pytest
import torch

from genrep.diffusion import NoiseSpec
from genrep.diffusion.noise_levels import NoiseLevels
from genrep.diffusion.schedulers import SCHEDULERS, make_scheduler, scheduler_name, swap_scheduler
from genrep.errors import InputError
from genrep.specs import validate


def test_linear_schedule_is_ddpms():
    levels = NoiseLevels(NoiseSpec(), (4, 8))
    product = 1.0
    for step in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
        if step in (0, 499, 999):
            assert float(levels.alphas_cumprod[step]) == pytest.approx(product, rel=1e-9)


def test_noise_is_added_as_in_ddpm():
    levels, latents, noise = NoiseLevels(NoiseSpec(), (4, 8)), torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    timesteps = torch.tensor([0, 500, 999])
    ours = levels.add_noise(latents, noise, timesteps)
    scheduler = make_scheduler("ddpm", levels)
    torch.testing.assert_close(ours, scheduler.add_noise(latents, noise, timesteps), atol=1e-4, rtol=1e-4)


def test_shift_lowers_log_snr_by_twice_its_logarithm():
    plain, shifted = (NoiseLevels(NoiseSpec(shift=shift), (4, 8)) for shift in (1.0, 3.0))
    torch.testing.assert_close(
        plain.log_snr - shifted.log_snr, torch.full((1000,), 2 * math.log(3), dtype=torch.float64)
    )
    assert NoiseLevels(NoiseSpec(shift="auto"), (256, 64)).shift == pytest.approx(2.0)  # sqrt(256 · 64 / 4096)


def test_min_snr_weights():
    levels = NoiseLevels(NoiseSpec(weighting="min_snr", gamma=5.0), (4, 8))
    snr = levels.alphas_cumprod / (1 - levels.alphas_cumprod)
    timesteps = torch.tensor([0, 100, 400, 999])
    torch.testing.assert_close(levels.weight(timesteps), snr[timesteps].clamp_max(5).float())
    assert levels.weight(torch.tensor([0])) == 5
    assert (NoiseLevels(NoiseSpec(gamma=0.5), (4, 8)).weight(timesteps) == 1).all(), "gamma is not for plain"


def test_velocity_weights_turn_the_x0_loss_into_that_of_the_velocity():
    """v = sqrt(ᾱ) ε - sqrt(1 - ᾱ) x0 (Salimans and Ho 2022), of the x0 and ε that give the same noisy latents."""
    levels = NoiseLevels(NoiseSpec(weighting="velocity", gamma=5.0), (4, 8))
    latents, noise, guess = torch.randn(3, 3, 4, 8, dtype=torch.float64)
    timesteps = torch.tensor([300, 600, 999])
    signal = levels.alphas_cumprod[timesteps][:, None, None]
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    guessed_noise = (noisy - signal.sqrt() * guess) / (1 - signal).sqrt()
    error = signal.sqrt() * (noise - guessed_noise) - (1 - signal).sqrt() * (latents - guess)
    weighted = levels.weight(timesteps).double() * (latents - guess).square().mean((1, 2))
    torch.testing.assert_close(weighted, error.square().mean((1, 2)), rtol=1e-6, atol=0)
    assert levels.weight(torch.tensor([0])) == 5, "less than SNR + 1 where there is hardly any noise"
    assert float(levels.weight(torch.tensor([999]))) == pytest.approx(1, abs=1e-3), "where min-SNR's is 0"


def test_a_velocity_weight_that_is_the_same_everywhere_is_refused():
    with pytest.raises(InputError, match="gamma must be above 1 for weighting velocity.*got 1.0"):
        validate(NoiseSpec, {"weighting": "velocity", "gamma": 1.0}, where="test")


def test_uniform_density_visits_every_level_equally():
    levels = NoiseLevels(NoiseSpec(num_timesteps=10), (4, 8))
    assert torch.equal(levels.timesteps((torch.arange(100) + 0.5) / 100), torch.arange(100) // 10)
    assert levels.timesteps(torch.tensor([0.0, 0.9999999])).tolist() == [0, 9]


def test_normal_density_is_normal_in_log_snr():
    levels = NoiseLevels(NoiseSpec(density="normal", density_mean=-1.0, density_std=1.5), (4, 8))
    drawn = levels.log_snr[levels.timesteps((torch.arange(20_000) + 0.5) / 20_000)]
    assert drawn.mean() == pytest.approx(-1.0, abs=0.05)
    assert drawn.std() == pytest.approx(1.5, abs=0.05)


def gaussian_samples(name: str, num_steps: int, shift: float, mean: float = 0.7, std: float = 0.3) -> torch.Tensor:
    """Samples of a Gaussian, with its exact E[x0 | xt] as denoiser."""
    levels = NoiseLevels(NoiseSpec(shift=shift), (16, 16))
    scheduler = make_scheduler(name, levels)
    scheduler.set_timesteps(num_steps)
    assert float(scheduler.timesteps[0]) == 999, "the noisiest level"
    noise = torch.randn(64, 16, 16, generator=torch.Generator().manual_seed(0))
    sample = (noise - noise.mean()) / noise.std() * scheduler.init_noise_sigma
    log_snr = levels.log_snr.numpy()
    for timestep in scheduler.timesteps:
        noisy = scheduler.scale_model_input(sample, timestep)
        signal = torch.tensor(float(np.interp(float(timestep), np.arange(1000), log_snr))).sigmoid()
        gain = signal.sqrt() * std**2 / (signal * std**2 + 1 - signal)
        clean = mean + gain * (noisy - signal.sqrt() * mean)
        sample = scheduler.step(clean, timestep, sample, return_dict=False)[0]
    return sample


@pytest.mark.parametrize("shift", [1.0, 2**0.5, 4.0])
@pytest.mark.parametrize(
    ("name", "num_steps"), [("dpm_solver", 20), ("dpm_solver", 30), ("dpm_solver", 40), ("heun", 30), ("euler", 120)]
)
def test_samplers_keep_mean_and_deviation_of_the_data(name, num_steps, shift):
    """To 3 % at the shipped numbers of steps; Euler, of first order, needs more."""
    samples = gaussian_samples(name, num_steps, shift)
    assert samples.mean() == pytest.approx(0.7, abs=0.02)
    assert samples.std() == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize(
    ("name", "num_steps", "ratio"),
    [
        ("euler", 30, 0.92), ("euler", 100, 0.975),
        ("ddim", 30, 0.87), ("ddim", 250, 0.98),
        ("ddpm", 30, 0.78), ("ddpm", 250, 0.95), ("ddpm", 1000, 0.985),
    ],
)  # fmt: skip
def test_how_much_deviation_first_order_samplers_lose(name, num_steps, ratio):
    """Generated over true standard deviation, at shift 1 for data with a standard deviation of 0.3."""
    samples = gaussian_samples(name, num_steps, shift=1.0)
    assert samples.mean() == pytest.approx(0.7, abs=0.02)
    assert samples.std() / 0.3 == pytest.approx(ratio, abs=0.01)


def test_nothing_is_clipped_to_one():
    for name in SCHEDULERS:
        assert not getattr(make_scheduler(name, NoiseLevels(NoiseSpec(), (4, 8))).config, "clip_sample", False)


def test_a_swapped_scheduler_keeps_the_levels():
    levels = NoiseLevels(NoiseSpec(shift=2.0), (4, 8))
    swapped = swap_scheduler("euler", make_scheduler("dpm_solver", levels))
    assert scheduler_name(swapped) == "euler"
    assert swapped.config.timestep_spacing == "linspace" and swapped.config.use_exponential_sigmas
    back = swap_scheduler("dpm_solver", swapped)
    assert back.config.timestep_spacing == "trailing" and back.config.use_lu_lambdas
    torch.testing.assert_close(swapped.alphas_cumprod.double(), levels.alphas_cumprod, atol=1e-6, rtol=1e-3)
    with pytest.raises(InputError, match="scheduler must be one of .*; got 'eulr'; did you mean 'euler'"):
        make_scheduler("eulr", levels)


def test_impossible_schedules_are_refused():
    with pytest.raises(InputError, match="beta_start must be below beta_end"):
        validate(NoiseSpec, {"beta_start": 0.5, "beta_end": 0.1})
