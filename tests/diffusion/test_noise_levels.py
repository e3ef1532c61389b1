"""Noise levels in closed form, and the same levels in diffusers' samplers."""

import math

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
    assert (NoiseLevels(NoiseSpec(), (4, 8)).weight(timesteps) == 1).all()


def test_uniform_density_visits_every_level_equally():
    levels = NoiseLevels(NoiseSpec(num_timesteps=10), (4, 8))
    assert torch.equal(levels.timesteps((torch.arange(100) + 0.5) / 100), torch.arange(100) // 10)
    assert levels.timesteps(torch.tensor([0.0, 0.9999999])).tolist() == [0, 9]


def test_normal_density_is_normal_in_log_snr():
    levels = NoiseLevels(NoiseSpec(density="normal", density_mean=-1.0, density_std=1.5), (4, 8))
    drawn = levels.log_snr[levels.timesteps((torch.arange(20_000) + 0.5) / 20_000)]
    assert drawn.mean() == pytest.approx(-1.0, abs=0.05)
    assert drawn.std() == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_samplers_reach_the_data_and_start_at_the_noisiest_level(name):
    """Gaussian data of mean 0.7 and deviation 0.3, the exact E[x0 | xt] as denoiser: samples have that mean and deviation."""
    levels = NoiseLevels(NoiseSpec(shift=1.5), (16, 16))
    scheduler = make_scheduler(name, levels)
    scheduler.set_timesteps(200 if name == "ddpm" else 50)
    assert int(scheduler.timesteps[0]) == 999
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(64, 16, 16, generator=generator) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        noisy = scheduler.scale_model_input(sample, timestep)
        signal = levels.alphas_cumprod[int(timestep)].float()
        gain = signal.sqrt() * 0.09 / (signal * 0.09 + 1 - signal)
        clean = 0.7 + gain * (noisy - signal.sqrt() * 0.7)
        sample = scheduler.step(clean, timestep, sample, return_dict=False)[0]
    assert sample.mean() == pytest.approx(0.7, abs=0.02)
    assert sample.std() == pytest.approx(0.3, abs=0.045)


def test_nothing_is_clipped_to_one():
    for name in SCHEDULERS:
        assert not getattr(make_scheduler(name, NoiseLevels(NoiseSpec(), (4, 8))).config, "clip_sample", False)


def test_a_swapped_scheduler_keeps_the_levels():
    levels = NoiseLevels(NoiseSpec(shift=2.0), (4, 8))
    swapped = swap_scheduler("euler", make_scheduler("dpm_solver", levels))
    assert scheduler_name(swapped) == "euler"
    torch.testing.assert_close(swapped.alphas_cumprod.double(), levels.alphas_cumprod, atol=1e-6, rtol=1e-3)
    with pytest.raises(InputError, match="scheduler 'eulr' is not one of .*did you mean 'euler'"):
        make_scheduler("eulr", levels)


def test_impossible_schedules_are_refused():
    with pytest.raises(InputError, match="beta_start must lie below beta_end"):
        validate(NoiseSpec, {"beta_start": 0.5, "beta_end": 0.1})
