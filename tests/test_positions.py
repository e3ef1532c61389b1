"""Tokens with positions, from the autoencoder to the pipeline, with a small decoder defined here."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from diffusers import ModelMixin  # noqa: F401 a pipeline looks for it in the module of a model that it loads
from diffusers.configuration_utils import register_to_config
from safetensors.torch import load_file

from genrep.coords import grid
from genrep.data import ArrayDataSpec, LatentsSpec
from genrep.data.encoding import cache_manifest, write_cache
from genrep.data.latents import LatentCache, LatentStatistics
from genrep.decoders import BaseDecoderSpec
from genrep.decoders.base import Decoder
from genrep.diffusion import DiffusionSpec, NoiseSpec
from genrep.diffusion.losses import latent_loss
from genrep.diffusion.noise_levels import NoiseLevels
from genrep.diffusion.objective import DenoisingObjective
from genrep.diffusion.schedulers import make_scheduler
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.denoiser import LatentDenoiser
from genrep.models.generator import CoordinateGenerator
from genrep.models.normalizer import LatentNormalizer
from genrep.models.specs import AutoencoderSpec
from genrep.pipelines.diffusion import LatentDiffusionPipeline
from genrep.pipelines.gan import GANPipeline
from genrep.training.latents import EncodedLatents, open_latents
from genrep.training.order import SignalStream
from genrep.training.specs import GANRun
from genrep.training.targets import target_sizes
from tests.tiny import AUTOENCODER, tiny_autoencoder, tiny_denoiser

MOST, WIDTH, POSITION_DIM = 6, 5, 2
"""Largest number of tokens in a set, width of a token, and how many of its channels are its position."""


class NearbySpec(BaseDecoderSpec):
    """The spec of `NearbyDecoder`."""

    type: Literal["nearby"]

    @property
    def position_dim(self):
        return POSITION_DIM


class NearbyDecoder(Decoder):
    """The mean of the tokens' values, weighted by a softmax of the negative squared distances to their positions."""

    num_axes, position_dim = 2, POSITION_DIM

    def __init__(self):
        super().__init__()
        self.says = torch.nn.Linear(WIDTH - POSITION_DIM, 1)

    def decoding(self, latents, mask=None):
        positions, said = latents[..., :POSITION_DIM], self.says(latents[..., POSITION_DIM:])

        def values(coords):
            points = getattr(coords, "points", coords)  # a render may hand over chunks of a grid
            points = points if points.ndim == 3 else points[None]
            scores = -4 * (points[:, :, None] - positions[:, None]).square().sum(-1)  # [B, N, R]
            if mask is not None:
                scores = scores.masked_fill(~mask[:, None], -torch.inf)
            return scores.softmax(-1) @ said

        return values


class CloudAutoencoder(INRAutoencoder):
    """8×8 images as 2 to 6 tokens with positions, their number depending on the image. The decoder argument is ignored."""

    @register_to_config
    def __init__(
        self,
        encoder=AUTOENCODER["encoder"],
        decoder=AUTOENCODER["decoder"],
        image_size=8,
        channels=1,
        num_tokens=MOST,
        latent_dim=WIDTH,
        signal=None,
        missing=False,
    ):
        super().__init__(encoder, decoder, image_size, channels, num_tokens, latent_dim, signal, missing)
        self.decoder = NearbyDecoder()

    def encode_set(self, images, fit=0):
        latents, _ = super().encode_set(images, fit)
        numbers = (images > 0).flatten(1).sum(1) % (MOST - 1) + 2
        return latents, torch.arange(MOST) < numbers[:, None]


def cloud_autoencoder(**options):
    torch.manual_seed(0)
    return CloudAutoencoder(**options).freeze()


def cloud_denoiser(conditioning="adaln", num_tokens=MOST, num_classes=3, **options):
    """A denoiser for tokens with positions, with noise added to all weights, many of which start at zero."""
    torch.manual_seed(0)
    denoiser = LatentDenoiser(
        num_tokens, WIDTH, num_classes, dim=16, depth=2, num_heads=2, head_dim=8, mlp_dim=32, conditioning=conditioning,
        position_dim=POSITION_DIM, **options,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return denoiser.eval()


def sets_and_mask(batch=4):
    """Latent sets, and a mask of 2 to 6 tokens, not only the first ones."""
    numbers = torch.tensor([2, 6, 3, 5])[:batch]
    mask = torch.stack([torch.randperm(MOST) < number for number in numbers])
    return torch.randn(batch, MOST, WIDTH), mask


# decoding


def test_permuting_the_tokens_does_not_change_a_render():
    model, (latents, mask) = cloud_autoencoder(), sets_and_mask()
    order = torch.randperm(MOST)
    for of_set, of_permuted in ((None, None), (mask, mask[:, order])):
        render = model.render(latents, size=(9, 7), mask=of_set)
        torch.testing.assert_close(model.render(latents[:, order], size=(9, 7), mask=of_permuted), render)
    assert not torch.allclose(
        model.render(latents[:, order], size=9, mask=mask), model.render(latents, size=9, mask=mask)
    )


def test_masked_tokens_do_not_change_a_render():
    model, (latents, mask) = cloud_autoencoder(), sets_and_mask()
    others = torch.where(mask[..., None], latents, 100 * torch.randn_like(latents))
    render = model.render(latents, size=9, mask=mask)
    torch.testing.assert_close(model.render(others, size=9, mask=mask), render)
    coords = grid(9)
    torch.testing.assert_close(render.flatten(2).transpose(1, 2), model.decode(latents, coords, mask))
    torch.testing.assert_close(model.decode(latents, coords, mask), model.decoding(latents, mask)(coords))
    for latent, there, values in zip(latents, mask, model.decode(latents, coords, mask), strict=True):
        assert torch.allclose(model.decoder(coords, latent[None, there]), values, atol=1e-6)


def test_a_mask_of_tokens_with_slots_is_refused():
    model, latents, mask = tiny_autoencoder(), torch.randn(1, 4, 8), torch.ones(1, 4, dtype=torch.bool)
    for call in (
        lambda: model.decode(latents, grid(3), mask),
        lambda: model.decoding(latents, mask),
        lambda: model.render(latents, mask=mask),
    ):
        with pytest.raises(InputError, match="mask needs tokens with positions; this decoder's tokens have slots"):
            call()


# statistics


def test_statistics_are_of_the_channels_of_tokens_that_are_there():
    latents, mask = sets_and_mask()
    statistics = LatentStatistics((MOST, WIDTH), POSITION_DIM)
    for part in (slice(0, 1), slice(1, 4)):
        statistics.update(latents[part], mask[part])
    statistics.update(latents[:0], mask[:0])
    statistics.update(latents[:1], torch.zeros(1, MOST, dtype=torch.bool))
    for channel in range(WIDTH):
        numbers = [latents[k, token, channel].item() for k in range(4) for token in range(MOST) if bool(mask[k, token])]
        assert len(numbers) == statistics.count == 16
        mean = sum(numbers) / 16
        assert statistics.mean[0, channel].item() == pytest.approx(mean)
        variance = sum((number - mean) ** 2 for number in numbers) / 16
        assert statistics.std[0, channel].item() == pytest.approx(variance**0.5)
    assert statistics.mean.shape == statistics.std.shape == (1, WIDTH)


def test_statistics_of_whole_sets_need_no_mask():
    latents, _ = sets_and_mask()
    with_mask, without = (LatentStatistics((MOST, WIDTH), POSITION_DIM) for _ in range(2))
    with_mask.update(latents, torch.ones(4, MOST, dtype=torch.bool))
    without.update(latents)
    assert torch.equal(with_mask.mean, without.mean) and torch.equal(with_mask.std, without.std)
    with_slots = LatentStatistics((MOST, WIDTH))
    with_slots.update(latents)
    assert with_slots.mean.shape == (MOST, WIDTH)
    torch.testing.assert_close(with_slots.mean.mean(0, keepdim=True), without.mean)


def test_a_normalizer_of_channels_takes_any_number_of_tokens():
    latents, _ = sets_and_mask()
    statistics = LatentStatistics((MOST, WIDTH), POSITION_DIM)
    statistics.update(latents)
    normalizer = LatentNormalizer.from_statistics(statistics.mean.float(), statistics.std.float())
    standardized = normalizer.standardize(latents)
    torch.testing.assert_close(standardized.mean((0, 1)), torch.zeros(WIDTH), atol=1e-6, rtol=0)
    torch.testing.assert_close(standardized.std((0, 1), correction=0), torch.ones(WIDTH))
    torch.testing.assert_close(normalizer.restore(standardized), latents)
    assert torch.equal(normalizer.standardize(latents[:, :3]), standardized[:, :3])
    order = torch.randperm(MOST)
    assert torch.equal(normalizer.standardize(latents[:, order]), standardized[:, order])
    with pytest.raises(InputError, match=r"latents must be \[batch, tokens, 5\] for this normalizer"):
        normalizer.standardize(latents[..., :4])


def test_a_normalizer_can_give_positions_another_scale():
    latents, _ = sets_and_mask()
    mean, std = latents.mean((0, 1))[None], latents.std((0, 1), correction=0)[None]
    normalizer = LatentNormalizer.from_statistics(mean, std, POSITION_DIM, position_scale=3.0)
    standardized = normalizer.standardize(latents)
    expected = torch.tensor([3.0] * POSITION_DIM + [1.0] * (WIDTH - POSITION_DIM))
    torch.testing.assert_close(standardized.std((0, 1), correction=0), expected)
    torch.testing.assert_close(normalizer.restore(standardized), latents)


# denoiser


def test_embeddings_of_positions_are_relative_to_their_scale():
    """Positions of three times the scale have the same embedding: their range is the same part of the encoding's period."""
    plain, scaled = cloud_denoiser(), cloud_denoiser(position_scale=3.0)
    noisy, _ = sets_and_mask()
    larger = noisy.clone()
    larger[..., :POSITION_DIM] *= 3
    of_scaled = scaled._embedded(larger) - scaled.embed(larger)
    torch.testing.assert_close(of_scaled, plain._embedded(noisy) - plain.embed(noisy), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="position_scale is for tokens with positions, and these have slots; got 3.0"):
        LatentDenoiser(4, 8, position_scale=3.0)


@pytest.mark.parametrize("conditioning", ["adaln", "token"])
def test_permuting_the_tokens_permutes_the_prediction(conditioning):
    denoiser, (noisy, mask) = cloud_denoiser(conditioning), sets_and_mask()
    timesteps, labels, order = torch.tensor([1, 500, 900, 10]), torch.tensor([0, 1, 2, 3]), torch.randperm(MOST)
    for of_set, of_permuted in ((None, None), (mask, mask[:, order])):
        predicted = denoiser(noisy, timesteps, labels, of_set)
        torch.testing.assert_close(denoiser(noisy[:, order], timesteps, labels, of_permuted), predicted[:, order])
    assert not torch.allclose(predicted, predicted[:, order], atol=0.01)


@pytest.mark.parametrize("conditioning", ["adaln", "token"])
def test_a_masked_batch_is_its_smaller_sets_one_at_a_time(conditioning):
    denoiser, (noisy, mask) = cloud_denoiser(conditioning), sets_and_mask()
    timesteps, labels = torch.tensor([1, 500, 900, 10]), torch.tensor([0, 1, 2, 3])
    predicted = denoiser(noisy, timesteps, labels, mask)
    for k in range(4):
        alone = denoiser(noisy[k : k + 1, mask[k]], timesteps[k : k + 1], labels[k : k + 1])
        torch.testing.assert_close(predicted[k, mask[k]], alone[0])
    whole = denoiser(noisy, timesteps, labels)
    torch.testing.assert_close(predicted[1], whole[1])  # the set of six
    assert not torch.allclose(predicted[0, mask[0]], whole[0, mask[0]], atol=1e-3)


@pytest.mark.parametrize("conditioning", ["adaln", "token"])
def test_an_empty_set_has_finite_gradients_and_half_precision_is_near(conditioning):
    denoiser, (noisy, mask) = cloud_denoiser(conditioning), sets_and_mask()
    mask[0] = False
    noisy.requires_grad_(True)
    timesteps, labels = torch.tensor([1, 500, 900, 10]), torch.tensor([0, 1, 2, 3])
    predicted = denoiser(noisy, timesteps, labels, mask)
    latent_loss(predicted, torch.zeros_like(noisy), torch.ones(4), mask).backward()
    assert all(part.grad.isfinite().all() for part in (noisy, *denoiser.parameters()))
    assert not noisy.grad[0].any(), "a set without tokens teaches nothing"
    half = denoiser.to(torch.bfloat16)(noisy.detach(), timesteps, labels, mask).float()
    assert float((half - predicted)[mask].abs().max()) < 0.05 * float(predicted[mask].abs().max())


def test_moving_a_token_changes_its_prediction():
    """The position matters beyond its linear embedding among the other channels."""
    denoiser, (noisy, _) = cloud_denoiser(), sets_and_mask()
    with torch.no_grad():
        denoiser.embed.weight[:, :POSITION_DIM] = 0
    moved = noisy.clone()
    moved[:, 0, 0] += 0.5
    assert not torch.allclose(denoiser(noisy, 5), denoiser(moved, 5), atol=1e-3)


def test_denoisers_refuse_wrong_shapes():
    noisy, mask = sets_and_mask()
    with pytest.raises(
        InputError, match=r"mask must be \[batch, tokens\], .*; got \[4, 5\] for latents \[4, 6, 5\] and pos"
    ):
        cloud_denoiser()(noisy, 1, None, mask[:, :5])
    with pytest.raises(InputError, match=r"mask must be .* for tokens with positions; .* position_dim 0"):
        tiny_denoiser()(torch.randn(4, 4, 8), 1, None, mask[:, :4])
    with pytest.raises(InputError, match=r"noisy_latents must be \[batch, tokens, 5\] for this denoiser"):
        cloud_denoiser()(noisy[..., :4], 1)


# objective


@pytest.mark.parametrize("weighting", ["plain", "min_snr"])
def test_the_masked_loss_is_a_plain_formula(weighting):
    """For each set weight(t) times the mean square over its present tokens; then the mean over sets."""
    latents, mask = sets_and_mask()
    normalizer = LatentNormalizer.from_statistics(torch.full((1, WIDTH), 0.5), torch.full((1, WIDTH), 2.0))
    levels = NoiseLevels(NoiseSpec(weighting=weighting), (MOST, WIDTH))
    objective = DenoisingObjective(DiffusionSpec(label_dropout=0.5), levels, normalizer, num_classes=3)
    denoiser, noise = cloud_denoiser(), torch.randn_like(latents)
    draws, labels = torch.tensor([[0.1, 0.9], [0.5, 0.1], [0.9, 0.6], [0.3, 0.4]]), torch.tensor([0, 1, 2, 0])
    loss = objective(denoiser, latents, labels, noise, draws, mask)

    timesteps, clean = levels.timesteps(draws[:, 0]), (latents - 0.5) / 2
    total = 0.0
    for k, label in enumerate([0, 3, 2, 3]):  # draws below one half drop the label
        alpha = levels.alphas_cumprod[timesteps[k]].item()
        noisy = alpha**0.5 * clean[k] + (1 - alpha) ** 0.5 * noise[k]
        predicted = denoiser(noisy[None, mask[k]], timesteps[k : k + 1], torch.tensor([label]))[0]
        weight = min(alpha / (1 - alpha), levels.spec.gamma) if weighting == "min_snr" else 1.0
        total += weight * (predicted - clean[k, mask[k]]).square().mean().item() / 4
    assert loss.item() == pytest.approx(total, rel=1e-4)
    whole = objective(denoiser, latents, labels, noise, draws, torch.ones_like(mask))
    torch.testing.assert_close(whole, objective(denoiser, latents, labels, noise, draws))


# cache


@pytest.fixture
def digits_like(tmp_path):
    """30 labelled arrays of 8×8, which are encoded as sets of different sizes."""
    import numpy as np

    generator = np.random.default_rng(0)
    np.savez(
        tmp_path / "a.npz",
        values=generator.uniform(-1, 1, (30, 8, 8)).astype(np.float32),
        labels=np.arange(30) % 3,
    )
    return ArrayDataSpec(type="arrays", source=str(tmp_path / "a.npz"), value_range=[-1.0, 1.0])


SIGNAL = {"type": "array"}


def test_a_cache_with_a_mask_is_read_as_it_was_written(digits_like, tmp_path):
    model = cloud_autoencoder(signal=SIGNAL)
    data, held_out = (digits_like.open(split, (8, 8), 1) for split in ("train", "held_out"))
    spec = LatentsSpec(folder=str(tmp_path / "cache"), shard_size=10, batch=4)
    write_cache(model, data, spec, Path(spec.folder), held_out=held_out)
    latents, mask = model.encode_set(data.signal.values(data.read(range(24))))
    assert len(mask.sum(1).unique()) > 2

    cache = LatentCache(spec.folder, cache_manifest(model, data, spec))
    indices = [23, 0, 9, 10, 11, 3]  # in three shards
    torch.testing.assert_close(cache.latents(indices), latents[indices])
    assert torch.equal(cache.masks(indices), mask[indices])
    held_out_cache = LatentCache(spec.folder, split="held_out")
    of_held_out = model.encode_set(held_out.signal.values(held_out.read(range(6))))[1]
    assert torch.equal(held_out_cache.masks(range(6)), of_held_out)
    shards = sorted(Path(spec.folder).glob("latents-*.safetensors"))
    assert [load_file(shard)["mask"].shape for shard in shards] == [(10, 1, MOST), (10, 1, MOST), (4, 1, MOST)]

    there = latents[mask].double()
    assert cache.mean.shape == cache.std.shape == (1, WIDTH)
    torch.testing.assert_close(cache.mean[0], there.mean(0).float())
    torch.testing.assert_close(cache.std[0], there.std(0, correction=0).float())

    batch = SignalStream(cache, 0, False, wants_signals=False, cache=cache).__getitems__([0, 1, 2])
    assert torch.equal(batch.mask, mask[batch.indices])
    sets, of_sets = open_latents(model, cache, spec, (0, 1), lambda: None).sets(batch)
    torch.testing.assert_close(sets, latents[batch.indices])
    assert torch.equal(of_sets, batch.mask)


def test_sets_encoded_on_the_fly_are_those_of_the_cache(digits_like, tmp_path):
    model, data = cloud_autoencoder(signal=SIGNAL), digits_like.open("train", (8, 8), 1)
    spec = LatentsSpec(folder=str(tmp_path / "cache"), batch=5)
    write_cache(model, data, spec, Path(spec.folder))
    cache, encoded = LatentCache(spec.folder), EncodedLatents(model, data, spec)
    torch.testing.assert_close((encoded.mean, encoded.std), (cache.mean, cache.std))
    batch = SignalStream(data, 0, False).__getitems__([3, 4])
    sets, mask = encoded.sets(batch)
    torch.testing.assert_close(sets, cache.latents(batch.indices))
    assert torch.equal(mask, cache.masks(batch.indices))


def test_a_cache_of_slots_has_no_mask(digits_like, tmp_path):
    model, data = tiny_autoencoder(signal=SIGNAL), digits_like.open("train", (8, 8), 1)
    spec = LatentsSpec(folder=str(tmp_path / "cache"))
    write_cache(model, data, spec, Path(spec.folder))
    cache = LatentCache(spec.folder)
    assert cache.masks([0, 1]) is None and cache.mean.shape == (4, 8)


# pipeline


def cloud_pipeline(num_tokens=MOST, **options):
    levels = NoiseLevels(NoiseSpec(), (MOST, WIDTH))
    torch.manual_seed(1)
    normalizer = LatentNormalizer.from_statistics(torch.randn(1, WIDTH), torch.rand(1, WIDTH) + 0.5)
    pipeline = LatentDiffusionPipeline(
        cloud_autoencoder(num_tokens=num_tokens),
        cloud_denoiser(num_tokens=num_tokens),
        normalizer,
        make_scheduler("ddim", levels),
        sampling={"num_inference_steps": 3, "guidance_scale": 2.0},
        **options,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline():
    return cloud_pipeline()


def test_a_pipeline_of_positions_is_saved_and_loaded(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = LatentDiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.autoencoder) is CloudAutoencoder and loaded.denoiser.spec.position_dim == POSITION_DIM
    draws = [
        model([0, 1], num_tokens=[2, 5], generator=torch.Generator().manual_seed(3), output_type="uint8").images
        for model in (pipeline, loaded)
    ]
    assert draws[0].shape == (2, 1, 8, 8) and torch.equal(*draws)
    assert draws[0].float().std() > 1


def test_a_smaller_set_equals_a_pipeline_of_that_size(pipeline):
    """From the same noise, three of at most six tokens give what a pipeline for three tokens gives."""
    noise, labels = torch.randn(3, MOST, WIDTH), [0, 1, 2]
    mixed = pipeline(labels, num_tokens=[3, 6, 2], latents=noise, output_type="uint8", size=12).images
    for k, number in enumerate([3, 6, 2]):
        alone = cloud_pipeline(number)
        alone.denoiser.load_state_dict(pipeline.denoiser.state_dict())
        shared = {name: part for name, part in pipeline.autoencoder.state_dict().items() if name.startswith("decoder")}
        alone.autoencoder.load_state_dict(shared, strict=False)
        image = alone(labels[k], latents=noise[k : k + 1, :number], output_type="uint8", size=12).images
        assert (image[0].int() - mixed[k].int()).abs().max() <= 1
    whole = pipeline(labels, latents=noise, output_type="uint8", size=12).images
    assert torch.equal(whole[1], mixed[1]) and not torch.equal(whole[0], mixed[0])


def test_samples_do_not_depend_on_the_batch_they_are_drawn_in(pipeline):
    def draw(batch_size):
        generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
        return pipeline(
            [0, 1, 2, 0], num_tokens=[2, 6, 4, 3], generator=generators, batch_size=batch_size, output_type="uint8"
        ).images

    assert (draw(None).int() - draw(1).int()).abs().max() <= 1
    one_for_all = pipeline(num_images=2, num_tokens=4, generator=torch.Generator().manual_seed(0), output_type="latent")
    assert one_for_all.images.shape == (2, MOST, WIDTH)


def test_invalid_numbers_of_tokens_are_refused(pipeline):
    for number in (0, MOST + 1, 2.5, "3"):
        with pytest.raises(InputError, match="num_tokens"):
            pipeline(num_images=2, num_tokens=number)
    with pytest.raises(InputError, match="num_tokens must be one number, or one for each of the 2 samples; got 3"):
        pipeline(num_images=2, num_tokens=[2, 3, 4])
    with pytest.raises(
        InputError, match='num_tokens "data" needs the sizes of the training data.* saved without: give a n'
    ):
        pipeline(num_images=2, num_tokens="data")


def slots_pipeline(**parts):
    levels = NoiseLevels(NoiseSpec(), (4, 8))
    normalizer = LatentNormalizer.from_statistics(torch.zeros(4, 8), torch.ones(4, 8))
    components = {"autoencoder": tiny_autoencoder(), "denoiser": tiny_denoiser(), "normalizer": normalizer, **parts}
    return LatentDiffusionPipeline(**components, scheduler=make_scheduler("ddim", levels))


def test_a_number_of_tokens_with_slots_is_refused():
    with pytest.raises(InputError, match="num_tokens needs tokens with positions; .* have slots: leave it out"):
        slots_pipeline()(num_images=1, num_tokens=3)


def test_parts_that_disagree_are_refused():
    with pytest.raises(
        InputError, match="a denoiser with position_dim 2 does not fit an autoencoder with position_dim 0"
    ):
        slots_pipeline(denoiser=tiny_denoiser(position_dim=2))
    cloud = cloud_autoencoder(num_tokens=4, latent_dim=WIDTH)
    with pytest.raises(
        InputError, match="a denoiser with position_dim 0 does not fit an autoencoder with position_dim 2"
    ):
        slots_pipeline(autoencoder=cloud)
    with pytest.raises(
        InputError, match=r"a denoiser with latents \(6, 5\) does not fit an autoencoder with latents \(4, 5\)"
    ):
        slots_pipeline(autoencoder=cloud, denoiser=cloud_denoiser())
    of_slots = LatentNormalizer.from_statistics(torch.zeros(4, WIDTH), torch.ones(4, WIDTH))
    with pytest.raises(InputError, match=r"a normalizer with statistics \(4, 5\) does not fit"):
        slots_pipeline(autoencoder=cloud, denoiser=cloud_denoiser(num_tokens=4), normalizer=of_slots)


# GAN


def test_a_gan_of_latents_needs_slots():
    config = GANRun.model_validate(
        {"autoencoder": "x", "gan": {"target": "latents"}, "run": {"folder": "x", "steps": 1, "batch": 1}}
    )
    spec = AutoencoderSpec.model_validate(AUTOENCODER)
    assert target_sizes(config, spec).grid == (4,)
    with pytest.raises(InputError, match="have positions instead of slots: train a diffusion model on them"):
        target_sizes(config, spec.model_copy(update={"decoder": NearbySpec(type="nearby")}))


def test_a_gan_pipeline_of_positions_is_refused():
    normalizer = LatentNormalizer.from_statistics(torch.zeros(1, WIDTH), torch.ones(1, WIDTH))
    generator = CoordinateGenerator(1, WIDTH, noise_dim=4, widths=[8, 8], tile=[2], cells=[2])
    with pytest.raises(InputError, match="needs tokens with slots, and this autoencoder's tokens have positions"):
        GANPipeline(generator, cloud_autoencoder(), normalizer)
