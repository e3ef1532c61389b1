"""Nothing is computed in float64 on Apple's GPU, which lacks it: the main paths on a stand-in, compared with the CPU."""

from functools import partial

import pytest
import torch

from genrep.coords import axis_centres, grid, grid_at
from genrep.data import ImageDataSpec
from genrep.data.images import ImageData
from genrep.data.latents import LatentStatistics
from genrep.devices import float64_device
from genrep.diffusion import NoiseSpec
from genrep.diffusion.losses import latent_loss, two_term_loss
from genrep.diffusion.noise_levels import NoiseLevels
from genrep.diffusion.schedulers import SCHEDULERS, make_scheduler
from genrep.gan.augment import KINDS, NUM_DRAWS, augment
from genrep.gan.losses import hinge_discriminator_loss, hinge_generator_loss, r1_penalty
from genrep.metrics.pattern import statistics
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.discriminator import Discriminators
from genrep.models.field import NeuralField
from genrep.models.generator import CoordinateGenerator
from genrep.models.normalizer import LatentNormalizer
from genrep.nn.tiling import Tiling, grid_tiling
from genrep.pictures import from_uint8
from genrep.pipelines.diffusion import LatentDiffusionPipeline
from genrep.pipelines.gan import GANPipeline
from genrep.refine import refine
from genrep.training.order import TrainingBatch
from genrep.training.reconstruction import training_points
from genrep.training.run import Run
from genrep.training.specs import AutoencoderRun, EMASpec, OptimizerSpec, ReconstructionSpec
from genrep.training.state import TrainingState
from tests.apple import apple_gpu
from tests.decoders.test_modulated_mlp import DECODERS, ENCODER
from tests.models.test_denoiser import woken
from tests.tiny import AUTOENCODER, tiny_autoencoder

CPU = torch.device("cpu")
DIGITS = ImageData(ImageDataSpec(train_split="train[:3]", held_out_fraction=0.0), "train", (8, 8), 1)
GENERATOR = {"noise_dim": 5, "widths": [8, 8, 8], "tile": [2, 3], "cells": [2, 4], "num_frequencies": 2}
FIELDS = {
    "nearest": {"type": "levels_of_experts", "widths": [8, 8], "num_frequencies": 2},
    "linear": {"type": "levels_of_experts", "widths": [8, 8], "num_frequencies": 2, "blending": "linear"},
    "affine": {"type": "levels_of_experts", "widths": [8, 8], "num_frequencies": 2, "layout": "random_affine"},
    "positional": {"type": "positional_mlp", "widths": [8, 8], "embedding_dim": 2, "embedding_size": 4},
}


@pytest.fixture
def gpu():
    with apple_gpu() as device:
        yield device


def same(gpu, work, atol=1e-5):
    """`work(device)` gives the same numbers on both devices."""
    torch.testing.assert_close(work(gpu).cpu(), work(CPU), atol=atol, rtol=1e-4)


def batch_of(kept, sources=None):
    """A batch of the training stream with these images."""
    positions = list(range(len(kept)))
    return TrainingBatch(positions, positions, torch.zeros(len(kept), dtype=torch.bool), kept, sources, labels=None)


def step(model, loss):
    """The weights, flattened, after an optimizer step with clipping and averaging."""
    state = TrainingState(model, OptimizerSpec(type="muon", lr=1e-3), EMASpec())
    loss.backward()
    state.optimizer.clip_gradients()
    state.optimizer.step(1e-3)
    state.average.update(1)
    with state.average.applied():
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_the_stand_in_refuses_what_the_device_refuses(gpu):
    values = torch.ones(2, device=gpu)
    assert values.device == gpu and (values + 1).device == gpu and values.cpu().device == CPU
    for wrong in (
        values.double,
        partial(values.to, torch.float64),
        partial(values.to, "cpu", torch.float64),
        partial(torch.zeros, 2, dtype=torch.float64, device=gpu),
        partial(torch.tensor, [1.0], dtype=torch.float64, device=gpu),
        partial(torch.ones(2, dtype=torch.float64).to, gpu),
    ):
        with pytest.raises(TypeError, match="Cannot convert a MPS Tensor to float64"):
            wrong()
    with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
        values + torch.ones(2)


def test_where_float64_is(gpu):
    assert float64_device(gpu) == CPU and float64_device(CPU) == CPU
    assert float64_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


def test_grids(gpu):
    region = (0.1, 0.1, 0.1 + 1e-6, 0.3)
    same(gpu, lambda device: grid((50, 30), region, start=7, stop=500, device=device), atol=0)
    same(gpu, lambda device: grid_at(torch.tensor([3, 1400, 77], device=device), (50, 30)), atol=0)
    assert axis_centres((4, 6), device=gpu)[1].device == gpu


@pytest.mark.parametrize("blending", ["nearest", "linear"])
def test_tiles_of_coordinates(gpu, blending):
    affine = Tiling((2, 3), ((7.3, -2.0), (1.5, 11.0)), (0.3, 0.9), blending)
    for tiling in (affine, grid_tiling((4, 4), (32, 8), blending=blending)):
        same(gpu, lambda device, tiling=tiling: tiling.index(grid(64, device=device)), atol=0)
        for corner in range(4):
            tiles = lambda device, number, t=tiling, c=corner: t.corners(grid(64, device=device))[c][number]  # noqa: E731
            same(gpu, partial(tiles, number=0), atol=0)
            same(gpu, partial(tiles, number=1), atol=0)


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_field_is_fitted_and_rendered(gpu, name):
    def fitted(device):
        torch.manual_seed(0)
        field = NeuralField(FIELDS[name], (8, 12), 1).to(device)
        prepared = field.prepare(grid_at(torch.arange(40, device=device) * 2, (8, 12)))
        return step(field, field(prepared).square().mean())

    def rendered(device):
        torch.manual_seed(0)
        return NeuralField(FIELDS[name], (8, 12), 1).to(device).render((16, 16), chunk=100)

    same(gpu, fitted)
    same(gpu, rendered)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_an_autoencoder_is_trained(gpu, name):
    decoder, num_tokens = DECODERS[name]
    options = {"image_size": 8, "channels": 1, "num_tokens": num_tokens, "latent_dim": 8}
    kept = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)

    def trained(device):
        torch.manual_seed(0)
        autoencoder = INRAutoencoder(ENCODER, decoder, **options).to(device)
        points = training_points(ReconstructionSpec(), DIGITS, batch_of(kept), device, 0, 0)
        return step(autoencoder, points.loss(autoencoder(from_uint8(kept).to(device), points.coords)))

    same(gpu, trained, atol=1e-4)  # AdamW divides by gradients, some of them rounding alone


def test_images_are_encoded_rendered_and_refined(gpu):
    images = torch.rand(2, 1, 8, 8)

    def rendered(device):
        autoencoder = tiny_autoencoder().to(device)
        return autoencoder.render(autoencoder.encode(images.to(device)), 12, (-0.5, -0.5, 0.5, 0.2))

    def refined(device):
        return refine(tiny_autoencoder().to(device), images.to(device), 3, decoder_lr=1e-3, num_coords=20)[1]

    same(gpu, rendered)
    same(gpu, refined, atol=1e-4)


@pytest.mark.parametrize("coords", ["grid", "gaussian", "uniform"])
@pytest.mark.parametrize("targets", ["pixel", "bicubic"])
def test_coordinates_and_targets(gpu, coords, targets):
    spec = ReconstructionSpec(coords=coords, targets=targets, num_coords=9)
    batch = batch_of(*torch.randint(0, 256, (2, 2, 1, 8, 8), dtype=torch.uint8))
    for number in (0, 1):
        same(gpu, lambda device, number=number: training_points(spec, DIGITS, batch, device, 0, 0)[number])


def test_a_denoiser_is_trained(gpu):
    levels, latents, noise = NoiseLevels(NoiseSpec(weighting="min_snr"), (4, 8)), *torch.randn(2, 3, 4, 8)
    values, timesteps = torch.rand(3, 64, 1), levels.timesteps(torch.rand(3))

    def trained(device):
        torch.manual_seed(0)
        denoiser, autoencoder = woken().to(device), tiny_autoencoder().to(device)
        normalizer = LatentNormalizer.from_statistics(torch.zeros(4, 8), torch.ones(4, 8)).to(device)
        clean = normalizer.standardize(latents.to(device))
        noisy = levels.add_noise(clean, noise.to(device), timesteps)
        predicted = denoiser(noisy, timesteps.to(device), torch.tensor([0, 1, 2], device=device))
        weight = levels.weight(timesteps).to(device)
        restored = normalizer.restore(predicted)
        decoded = autoencoder.decode(restored, grid(8, device=device))
        loss = two_term_loss(restored, latents.to(device), decoded, values.to(device), weight)
        return step(denoiser, loss + latent_loss(predicted, clean, weight))

    same(gpu, trained, atol=2e-4)


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_a_diffusion_pipeline_draws_images(gpu, scheduler):
    def drawn(device):
        torch.manual_seed(0)
        normalizer = LatentNormalizer.from_statistics(torch.randn(4, 8), torch.rand(4, 8) + 0.5)
        levels = NoiseLevels(NoiseSpec(), (4, 8))
        pipeline = LatentDiffusionPipeline(tiny_autoencoder(), woken(), normalizer, make_scheduler(scheduler, levels))
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 4, "guidance_scale": 2.0, "generator": generator, "height": 12, "width": 12}
        return pipeline.to(device)([0, 1], output_type="latent", **options).images.cpu()

    same(gpu, drawn, atol=1e-3)


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_a_gan_pipeline_draws_images(gpu, kind):
    def drawn(device):
        torch.manual_seed(0)
        if kind == "pixels":
            pipeline = GANPipeline(CoordinateGenerator(2, 1, 3, **GENERATOR), sample_size=(8, 10))
        else:
            normalizer = LatentNormalizer.from_statistics(torch.randn(4, 8), torch.rand(4, 8) + 0.5)
            pipeline = GANPipeline(CoordinateGenerator(1, 8, 3, **GENERATOR), tiny_autoencoder(), normalizer)
        generator = torch.Generator().manual_seed(0)
        images = pipeline.to(device)([0, 2], generator=generator, height=9, width=9, output_type="np").images
        return torch.from_numpy(images)

    same(gpu, drawn, atol=0.005)  # a rounded grey value


def test_a_gan_is_trained(gpu):
    noise, draws = torch.randn(4, 5), torch.rand(4, NUM_DRAWS)
    pixels, tokens = torch.rand(4, 3, 8, 8), torch.randn(4, 4, 8)

    def trained(device):
        torch.manual_seed(0)
        generator = CoordinateGenerator(2, 3, 3, **GENERATOR).to(device)
        judge = Discriminators(3, (4, 8), 3, width=8, depth=3, scales=2, token_width=8, token_depth=2).to(device)
        labels = torch.tensor([0, 1, 2, 0], device=device)
        prepared = generator.prepare(grid(8, device=device), 4)
        fake = generator(prepared, noise.to(device), labels).transpose(1, 2).unflatten(2, (8, 8))
        sets = tokens.to(device).requires_grad_()
        seen = augment(pixels.to(device), KINDS, draws).requires_grad_()
        of_real = judge([seen, sets], labels)
        of_fake = judge([augment(fake.detach(), KINDS, draws), sets], labels)
        loss = hinge_discriminator_loss(of_real, of_fake) + r1_penalty(of_real, [seen, sets])
        return torch.cat([step(judge, loss), step(generator, hinge_generator_loss(judge([fake, sets], labels)))])

    same(gpu, trained, atol=5e-4)


def test_statistics_of_latents_and_of_images(gpu):
    latents, images = torch.randn(50, 4, 8) + 3, torch.randint(0, 256, (20, 1, 6, 6), dtype=torch.uint8)

    def measured(device):
        latent_statistics = LatentStatistics((4, 8))
        for part in latents.to(device).split(20):
            latent_statistics.update(part)
        return torch.stack([latent_statistics.mean, latent_statistics.std])

    same(gpu, measured, atol=0)
    same(gpu, lambda device: statistics(images.to(device).split(10)).deviation, atol=0)


def test_a_run_reports_a_mean(gpu, tmp_path):
    config = AutoencoderRun.model_validate(
        {
            "data": {"source": "digits"},
            "autoencoder": AUTOENCODER,
            "run": {"folder": str(tmp_path), "batch": 4, "steps": 2},
        }
    )
    run = Run(config, config.run)
    run.accelerator.state.device = gpu
    run.write_mean("psnr", 7.0, 2)
    assert '"psnr": 3.5, "held_out_images": 2' in (tmp_path / "metrics.jsonl").read_text()
