"""The pipeline with a guide: sampling, saving and loading, number types, and guides of other runs."""

import json
import shutil

import pytest
import torch

from genrep.diffusion import NoiseSpec
from genrep.diffusion.noise_levels import NoiseLevels
from genrep.diffusion.schedulers import SCHEDULERS, make_scheduler, swap_scheduler
from genrep.errors import InputError
from genrep.models.normalizer import LatentNormalizer
from genrep.pipelines import load_pipeline
from genrep.pipelines.diffusion import LatentDiffusionPipeline
from genrep.pipelines.guide import load_guide
from genrep.randomness import image_generators
from tests.diffusion.test_guidance import counting
from tests.models.test_denoiser import woken
from tests.scripts import PROJECT
from tests.tiny import tiny_autoencoder

STATISTICS = torch.linspace(-1, 1, 32).reshape(4, 8), torch.linspace(0.5, 1.5, 32).reshape(4, 8)


def make(denoiser=None, guide=None, mean=STATISTICS[0], std=STATISTICS[1], noise=None, scheduler="ddim", **sampling):
    pipeline = LatentDiffusionPipeline(
        tiny_autoencoder(num_tokens=mean.shape[0]),
        denoiser or woken(),
        LatentNormalizer.from_statistics(mean, std),
        make_scheduler(scheduler, NoiseLevels(noise or NoiseSpec(), (4, 8))),
        {0: "a", 1: "b", 2: "c"},
        sampling=sampling or None,
        guide=guide,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def small(**options):
    """A denoiser of the same latents and classes, but half as wide and deep."""
    return woken(**{"dim": 8, "depth": 1, **options})


def latents(pipeline, labels=(0, 1), **options):
    """Five steps, by default with guidance 2."""
    return pipeline(
        None if labels is None else list(labels),
        num_images=2,
        generator=image_generators(0, range(2)),
        **{"num_inference_steps": 5, "output_type": "latent", "guidance_scale": 2.0, **options},
    ).images


# sampling


@pytest.mark.parametrize("classes", [3, 0])
@pytest.mark.parametrize("name", ["ddim", "dpm_solver"])
def test_sampling_is_the_schedulers_steps_from_guided_predictions(classes, name):
    denoiser, guide = woken(num_classes=classes), small(num_classes=classes)
    pipeline = make(denoiser, guide, scheduler=name)
    labels = torch.tensor([0, 2]) if classes else None
    noise = torch.randn(2, 4, 8)
    sampled = latents(pipeline, None if labels is None else labels.tolist(), latents=noise, guidance_scale=3.0)

    scheduler, expected = make_scheduler(name, NoiseLevels(NoiseSpec(), (4, 8))), noise
    scheduler.set_timesteps(5)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            good, bad = denoiser(expected, timestep, labels), guide(expected, timestep, labels)
            expected = scheduler.step(3 * good - 2 * bad, timestep, expected).prev_sample
    torch.testing.assert_close(sampled, expected * STATISTICS[1] + STATISTICS[0], atol=1e-4, rtol=1e-4)
    pipeline.guide = None
    other = latents(pipeline, None if labels is None else labels.tolist(), latents=noise, guidance_scale=3.0)
    assert (other - sampled).abs().max() > 0.1


def test_a_denoiser_that_guides_itself_draws_unguided_samples():
    pipeline = make()
    plain = latents(pipeline, guidance_scale=1.0)
    pipeline.guide = pipeline.denoiser
    assert torch.equal(latents(pipeline, guidance_scale=4.0), plain)


def test_scale_one_never_calls_the_guide():
    pipeline = make(guide=small())
    rows = counting(pipeline.guide)
    unguided = latents(pipeline, guidance_scale=1.0)
    assert rows == []
    pipeline.guide = None
    assert torch.equal(latents(pipeline, guidance_scale=1.0), unguided)


def test_the_interval_and_callbacks_say_when_the_guide_is_called():
    pipeline = make(guide=small())
    called = []
    pipeline.guide.register_forward_pre_hook(lambda module, arguments: called.append(float(arguments[1][0])))
    latents(pipeline, guidance_interval=(0.3, 0.7))
    timesteps = pipeline.scheduler.timesteps.tolist()
    assert called == [t for t in timesteps if 0.3 <= t / 999 <= 0.7] and 0 < len(called) < 5

    def end_guidance(pipe, step, timestep, tensors):
        pipe._guidance_scale = 1.0 if step == 2 else pipe._guidance_scale
        return {}

    called.clear()
    latents(pipeline, callback_on_step_end=end_guidance)
    assert called == timesteps[:3]


def test_absent_tokens_are_masked_for_the_guide():
    """What stands in the places of absent tokens changes nothing, neither for the denoiser nor for the guide."""
    shape = {"num_tokens": 6, "position_dim": 2}
    pipeline = LatentDiffusionPipeline(
        tiny_autoencoder(encoder={"type": "fit"}, decoder={"type": "anchored"}, num_tokens=6),
        woken(**shape),
        LatentNormalizer.from_statistics(torch.zeros(1, 8), torch.ones(1, 8)),
        make_scheduler("ddim", NoiseLevels(NoiseSpec(), (6, 8))),
        guide=small(**shape),
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 6, 8)
    other = torch.cat([noise[:, :3], torch.randn(2, 3, 8)], dim=1)
    first, second = (latents(pipeline, latents=start, num_tokens=3)[:, :3] for start in (noise, other))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)
    whole = latents(pipeline, latents=other)[:, :3]
    assert (whole - first).abs().max() > 1e-2, "present, these tokens matter"


def test_samples_do_not_depend_on_the_batch_they_are_drawn_in():
    pipeline = make(guide=small())
    torch.testing.assert_close(latents(pipeline, batch_size=1), latents(pipeline), atol=1e-4, rtol=1e-4)


def test_a_guide_that_has_diverged_is_an_error():
    pipeline = make(guide=small())
    with torch.no_grad():
        pipeline.guide.head.bias.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite .*: the denoiser or its guide has diverged or is damaged"):
        latents(pipeline)


def test_a_guide_that_does_not_fit_is_refused_when_it_is_given_and_when_it_is_used():
    message = (
        r"a guide with latents \(4, 8\), .* and 5 classes does not fit a denoiser with latents \(4, 8\), .* and 3 cl"
    )
    with pytest.raises(InputError, match=message):
        make(guide=small(num_classes=5))
    pipeline = make()
    pipeline.guide = small(num_classes=5)
    with pytest.raises(InputError, match=message):
        latents(pipeline)


# saving, number types


def test_a_guide_is_saved_and_loaded(tmp_path):
    pipeline = make(guide=small(), guidance_scale=3.0)
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["guide"] == ["genrep.models.denoiser", "LatentDenoiser"]
    loaded = load_pipeline(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.guide.config["dim"] == 8 and loaded.denoiser.config["dim"] == 16
    expected = latents(pipeline, guidance_scale=None)
    assert torch.equal(latents(loaded, guidance_scale=None), expected)
    assert not torch.equal(latents(loaded, guidance_scale=1.0), expected)


def test_a_pipeline_without_a_guide_is_saved_and_loaded(tmp_path):
    pipeline = make()
    pipeline.save_pretrained(tmp_path)
    assert not (tmp_path / "guide").exists()
    loaded = load_pipeline(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.guide is None and torch.equal(latents(loaded), latents(pipeline))


def test_a_guide_that_is_given_later_is_kept(tmp_path):
    """By assignment, to `from_pretrained`, or among the components of a new pipeline."""
    pipeline, guide = make(), small()
    pipeline.save_pretrained(tmp_path / "without")
    expected = latents(make(pipeline.denoiser, guide))
    given = LatentDiffusionPipeline.from_pretrained(tmp_path / "without", guide=guide)
    pipeline.guide = guide
    pipeline.save_pretrained(tmp_path / "assigned")
    others = (given, load_pipeline(tmp_path / "assigned"), LatentDiffusionPipeline(**pipeline.components))
    for other in others:
        other.set_progress_bar_config(disable=True)
        assert torch.equal(latents(other), expected)
    pipeline.guide = None
    pipeline.save_pretrained(tmp_path / "removed")
    assert load_pipeline(tmp_path / "removed").guide is None


def test_a_pipeline_of_an_earlier_version_has_no_guide_and_takes_one():
    place = PROJECT / "tests" / "fixtures" / "earlier_pipeline"
    assert "guide" not in json.loads((place / "model_index.json").read_text())
    pipeline = load_pipeline(place)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.guide is None
    plain = latents(pipeline, None, guidance_scale=1.0)
    spec = pipeline.denoiser.spec
    pipeline.guide = small(num_tokens=spec.num_tokens, latent_dim=spec.latent_dim, num_classes=spec.num_classes)
    rows = counting(pipeline.guide)
    assert not torch.equal(latents(pipeline, None), plain) and rows == [2] * 5


def test_the_guide_moves_with_the_pipeline():
    pipeline = make(guide=small())
    exact, dtypes = latents(pipeline), []
    pipeline.to(torch.bfloat16)
    for model in (pipeline.guide, pipeline.denoiser):
        model.register_forward_hook(lambda module, arguments, output: dtypes.append(output.dtype))
    rough = latents(pipeline)
    assert dtypes == [torch.bfloat16] * 10 and rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.1 * exact.abs().max()
    assert pipeline.to("meta").guide.device.type == "meta"


# guides of other runs


@pytest.fixture
def folder(tmp_path):
    """Saves a pipeline as that of a run, and gives the run's folder."""

    def save(**options):
        make(**options).save_pretrained(tmp_path / "run" / "pipeline")
        return tmp_path / "run"

    return save


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_the_denoiser_of_a_run_guides(folder, scheduler):
    guide = small()
    place = folder(denoiser=guide, scheduler=scheduler)
    pipeline = make()
    for where in (place, str(place / "pipeline")):
        loaded = load_guide(where, pipeline)
        assert loaded.config["dim"] == 8 and not loaded.training
        torch.testing.assert_close(loaded.state_dict(), guide.state_dict(), atol=0, rtol=0)
    pipeline.scheduler = swap_scheduler("euler", pipeline.scheduler)
    load_guide(place, pipeline)


@pytest.mark.parametrize("wrong", [{"mean": STATISTICS[0] + 0.05}, {"std": STATISTICS[1] * 1.05}])
def test_a_guide_of_other_latents_of_the_same_shape_is_refused(folder, wrong):
    place = folder(denoiser=small(), **wrong)
    with pytest.raises(
        InputError, match=f"^{place}: this guide was trained on other latents, whose mean and standard dev"
    ):
        load_guide(place, make())


def test_rounding_is_no_other_latents(folder):
    mean, std = (x.bfloat16().float() for x in STATISTICS)
    assert not torch.equal(mean, STATISTICS[0])
    assert load_guide(folder(denoiser=small(), mean=mean, std=std), make()).config["dim"] == 8


@pytest.mark.parametrize("noise", [NoiseSpec(shift=2.0), NoiseSpec(num_timesteps=500)])
def test_a_guide_of_other_noise_levels_is_refused(folder, noise):
    place = folder(denoiser=small(), noise=noise)
    with pytest.raises(InputError, match=f"^{place}: this guide was trained with other noise levels than the pipeline"):
        load_guide(place, make())


def test_a_guide_of_another_shape_is_refused(folder):
    place = folder(denoiser=small(num_tokens=5), mean=torch.zeros(5, 8), std=torch.ones(5, 8))
    message = rf"^{place}: a guide with latents \(5, 8\), .* does not fit a denoiser with latents \(4, 8\), "
    with pytest.raises(InputError, match=message):
        load_guide(place, make())


def test_folders_without_a_denoiser_are_refused(folder, tmp_path):
    with pytest.raises(
        InputError, match=rf"^{tmp_path}/nowhere: no pipeline here .*; give the folder of a finished run"
    ):
        load_guide(tmp_path / "nowhere", make())
    place = folder(denoiser=small())
    shutil.rmtree(place / "pipeline" / "denoiser")
    with pytest.raises(InputError, match=f"^{place}/pipeline: no LatentDenoiser here"):
        load_guide(place, make())
