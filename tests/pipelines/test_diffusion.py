"""The pipeline: independence of batch, guidance, sizes, save and load, and its frozen module paths."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from diffusers.callbacks import PipelineCallback

from genrep.diffusion import NoiseSpec
from genrep.diffusion.noise_levels import NoiseLevels
from genrep.diffusion.schedulers import SCHEDULERS, make_scheduler, swap_scheduler
from genrep.errors import InputError
from genrep.models.normalizer import LatentNormalizer
from genrep.pipelines import load_pipeline, pipeline_sampling
from genrep.pipelines.diffusion import LatentDiffusionPipeline
from genrep.randomness import image_generators
from tests.models.test_denoiser import woken
from tests.tiny import tiny_autoencoder


@pytest.fixture
def pipeline():
    levels = NoiseLevels(NoiseSpec(), (4, 8))
    normalizer = LatentNormalizer.from_statistics(torch.randn(4, 8), torch.rand(4, 8) + 0.5)
    pipeline = LatentDiffusionPipeline(
        tiny_autoencoder(), woken(), normalizer, make_scheduler("dpm_solver", levels), {0: "a", 1: "b", 2: "c"}
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents(pipeline, labels, **options):
    return pipeline(labels, num_inference_steps=5, output_type="latent", **options).images


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_image_i_depends_on_its_generator_alone(pipeline, name):
    pipeline.scheduler = swap_scheduler(name, pipeline.scheduler)
    labels = [0, 1, 2, 0, 1]
    whole = latents(pipeline, labels, generator=image_generators(7, range(5)), guidance_scale=2.0)
    for size in (1, 2):
        parts = latents(pipeline, labels, generator=image_generators(7, range(5)), guidance_scale=2.0, batch_size=size)
        torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)
    alone = latents(pipeline, [0], generator=image_generators(7, [3]), guidance_scale=2.0)
    torch.testing.assert_close(alone[0], whole[3], atol=1e-4, rtol=1e-4)


def test_a_single_generator_is_reproducible_and_moves_on(pipeline):
    generator = torch.Generator().manual_seed(3)
    first, second = latents(pipeline, [0, 1], generator=generator), latents(pipeline, [0, 1], generator=generator)
    assert not torch.allclose(first, second)
    assert torch.equal(latents(pipeline, [0, 1], generator=torch.Generator().manual_seed(3)), first)
    longer = latents(pipeline, [0, 1, 2], generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(longer[:2], first, atol=1e-4, rtol=1e-4)


def test_guidance_interval_saves_forward_passes(pipeline):
    rows = []
    pipeline.denoiser.register_forward_pre_hook(lambda module, arguments: rows.append(len(arguments[0])))
    latents(pipeline, [0], guidance_scale=2.0, guidance_interval=(0.3, 0.7))
    timesteps = pipeline.scheduler.timesteps.tolist()
    assert rows == [2 if 0.3 <= t / 999 <= 0.7 else 1 for t in timesteps]
    assert 1 in rows and 2 in rows


def test_scale_one_and_an_empty_interval_disable_guidance(pipeline):
    plain = latents(pipeline, [1], generator=image_generators(0, [0]))
    assert torch.equal(latents(pipeline, [1], generator=image_generators(0, [0]), guidance_scale=1.0), plain)
    outside = latents(
        pipeline, [1], generator=image_generators(0, [0]), guidance_scale=9.0, guidance_interval=(0.123456, 0.123457)
    )
    assert torch.equal(outside, plain)


def test_any_size_and_region_is_the_same_sample(pipeline):
    def pixels(**where):
        return pipeline(
            [1], num_inference_steps=5, generator=image_generators(0, [0]), output_type="uint8", **where
        ).images

    whole = pixels(height=16, width=24)
    assert whole.shape == (1, 1, 16, 24) and whole.dtype == torch.uint8
    crop = pixels(height=8, width=12, region=(-1, -1, 0, 0))
    assert (crop.int() - whole[:, :, :8, :12].int()).abs().max() <= 1
    assert pixels().shape == (1, 1, 8, 8)


def test_output_types_agree(pipeline):
    outputs = {
        kind: pipeline([0, 1], num_inference_steps=3, generator=image_generators(0, [0, 1]), output_type=kind).images
        for kind in ("pil", "np", "pt", "uint8")
    }
    pixels = outputs["uint8"]
    assert pixels.dtype == torch.uint8 and pixels.shape == (2, 1, 8, 8)
    assert outputs["pil"][0].mode == "L" and outputs["pil"][0].size == (8, 8)
    assert list(outputs["pil"][1].getdata()) == pixels[1].flatten().tolist()
    assert outputs["pt"].dtype == torch.float32
    torch.testing.assert_close(outputs["pt"], pixels.float() / 255)
    torch.testing.assert_close(torch.from_numpy(outputs["np"]).permute(0, 3, 1, 2), outputs["pt"])


def test_save_and_load_are_equal(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    for loaded in (LatentDiffusionPipeline.from_pretrained(tmp_path), load_pipeline(tmp_path)):
        loaded.set_progress_bar_config(disable=True)
        expected_latents, loaded_latents = (
            latents(p, [0, 2], generator=image_generators(1, [0, 1]), guidance_scale=1.5) for p in (pipeline, loaded)
        )
        assert torch.equal(expected_latents, loaded_latents)
        assert {int(label): name for label, name in loaded.config.id2label.items()} == {0: "a", 1: "b", 2: "c"}


def test_saved_module_paths_are_frozen(pipeline, tmp_path):
    """Saved pipelines name these modules: moving one breaks every folder that was ever saved."""
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "LatentDiffusionPipeline"
    assert index["autoencoder"] == ["genrep.models.autoencoder", "INRAutoencoder"]
    assert index["denoiser"] == ["genrep.models.denoiser", "LatentDenoiser"]
    assert index["normalizer"] == ["genrep.models.normalizer", "LatentNormalizer"]
    assert index["scheduler"] == ["diffusers", "DPMSolverMultistepScheduler"]


def test_diffusers_own_way_of_swapping_a_scheduler(pipeline):
    for kind in (EulerDiscreteScheduler, DDIMScheduler):
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
        assert pipeline.scheduler.config.prediction_type == "sample"
        assert latents(pipeline, [0]).isfinite().all()
        assert not pipeline.scheduler.config.get("clip_sample"), "DDIM clips to ±1 by default"


def test_a_scheduler_of_another_prediction_is_refused_when_it_is_used(pipeline):
    pipeline.scheduler = DDIMScheduler()
    with pytest.raises(InputError, match="make it with from_config"):
        latents(pipeline, [0])


def test_more_steps_than_noise_levels_are_refused(pipeline):
    with pytest.raises(InputError, match="num_inference_steps must be an integer from 1 to 1000; got 1001"):
        pipeline([0], num_inference_steps=1001)


INVALID = [
    ({"class_labels": [3]}, "class_labels must be in 0 to 2, the classes of this model; got 3"),
    ({"class_labels": [-1]}, "class_labels must be in 0 to 2, the classes of this model; got -1"),
    ({"class_labels": [0], "num_images": 2}, "class_labels must have one label per image; got 1 for 2 images"),
    ({"class_labels": []}, "class_labels is empty"),
    ({"class_labels": "2"}, "class_labels must be an integer; got '2'"),
    ({"class_labels": ["2"]}, "every number of class_labels must be an integer; got '2'"),
    ({"class_labels": [0, 1.7]}, "every number of class_labels must be an integer; got 1.7"),
    ({"class_labels": 1.0}, "class_labels must be an integer; got 1.0"),
    ({"class_labels": True}, "class_labels must be an integer; got True"),
    ({"class_labels": torch.tensor([0.0])}, "every number of class_labels must be an integer; got 0.0"),
    ({"class_labels": torch.tensor([[0, 1]])}, r"every number of class_labels must be an integer; got \[0, 1\]"),
    ({"class_labels": np.array([True])}, "every number of class_labels must be an integer; got True"),
    ({"num_images": 0}, "num_images must be an integer from 1; got 0"),
    ({"num_images": 10**15}, "1000000000000000 images would take .* GiB"),
    ({"class_labels": [0], "callback_on_step_end": "print"}, "callback_on_step_end must be a function; got 'print'"),
    ({"num_images": 2.0}, "num_images must be an integer from 1; got 2.0"),
    ({"class_labels": [0], "batch_size": 0}, "batch_size must be an integer from 1; got 0"),
    ({"class_labels": [0], "batch_size": "1"}, "batch_size must be an integer from 1; got '1'"),
    ({"class_labels": [0], "guidance_interval": (0.7, 0.3)}, "guidance_interval must be .low, high. .* got .0.7, 0.3."),
    ({"class_labels": [0], "guidance_interval": 0.3}, "guidance_interval must be .low, high. .* got 0.3"),
    ({"class_labels": [0], "guidance_interval": (0.3, float("nan"))}, "guidance_interval must be .low, high. .* got .0.3, nan."),
    ({"class_labels": [0], "guidance_scale": float("nan")}, "guidance_scale must be a finite number; got nan"),
    ({"class_labels": [0], "guidance_scale": float("inf")}, "guidance_scale must be a finite number; got inf"),
    ({"class_labels": [0], "guidance_scale": "2"}, "guidance_scale must be a finite number; got '2'"),
    ({"class_labels": [0], "guidance_scale": True}, "guidance_scale must be a finite number; got True"),
    ({"class_labels": [0], "num_inference_steps": 0}, "num_inference_steps must be an integer from 1 to 1000; got 0"),
    ({"class_labels": [0], "num_inference_steps": 2.5}, "num_inference_steps must be an integer .* got 2.5"),
    ({"class_labels": [0], "output_type": "jpg"}, "output_type must be one of pil, np, pt, uint8, kept, latent; got 'jpg'"),
    ({"class_labels": [0], "height": 0}, "size must be a positive integer, .* got .0, 8."),
    ({"class_labels": [0], "width": 8.0}, "size must be a positive integer, .* got .8, 8.0."),
    ({"class_labels": [0], "region": (1, 1, 0, 0)}, "region must have every start below its end"),
    ({"class_labels": [0], "region": "0011"}, "region must be 4 finite numbers"),
    ({"class_labels": [0, 1], "generator": image_generators(0, [0])}, "generator must be a single one, or one per image, 2; got 1"),
    ({"class_labels": [0], "generator": 3}, "generator must be a torch.Generator, or one per image; got .3."),
    ({"class_labels": [0], "latents": torch.zeros(2, 4, 8)}, r"latents must be \[1, 4, 8\], noise for each image; got \[2, 4, 8\]"),
    ({"class_labels": [0], "latents": torch.full((1, 4, 8), float("nan"))}, "latents must be finite; 32 of 32 numbers are NaN"),
    ({"class_labels": [0], "latents": torch.zeros(1, 4, 8).long()}, "latents must be floating-point numbers; got torch.int64"),
    ({"class_labels": [0], "latents": np.zeros((1, 4, 8))}, r"latents must be a torch tensor \[1, 4, 8\] .* got numpy.ndarray: convert it with torch.from_numpy"),
    ({"class_labels": [0], "callback_on_step_end_tensor_inputs": ["noise"]}, "'noise' is not one of latents"),
    ({"class_labels": [0], "height": 10**6, "width": 10**7}, r"1 images of 1000000 × 10000000 pixels would take 9,313 GiB, but cpu has"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), INVALID, ids=[message[:40] for _, message in INVALID])
def test_invalid_arguments(pipeline, arguments, message):
    with pytest.raises(InputError, match=message):
        pipeline(**arguments)


@pytest.mark.parametrize("labels", [[2, 1], (2, 1), np.array([2, 1]), torch.tensor([2, 1]), torch.tensor([2, 1], dtype=torch.uint8), [np.int64(2), torch.tensor(1)]])  # fmt: skip
def test_labels_of_any_kind_of_integer(pipeline, labels):
    expected = latents(pipeline, [2, 1], generator=image_generators(0, range(2)))
    assert torch.equal(latents(pipeline, labels, generator=image_generators(0, range(2))), expected)
    for label in (2, np.int8(2), torch.tensor(2), np.array(2)):
        torch.testing.assert_close(
            latents(pipeline, label, generator=image_generators(0, [0]))[0], expected[0], atol=1e-4, rtol=1e-4
        )


def test_numbers_of_any_kind(pipeline):
    images = pipeline(
        [0], num_images=np.int64(1), guidance_scale=np.float32(2), guidance_interval=torch.tensor([0.0, 1.0]),
        num_inference_steps=torch.tensor(2), height=np.int64(6), width=torch.tensor(4), batch_size=np.int32(1),
        region=np.array([-1, -1, 0, 0]), output_type="uint8",
    ).images  # fmt: skip
    assert images.shape == (1, 1, 6, 4)


# noise and callbacks, as in diffusers


def test_noise_from_the_caller_equals_the_generators(pipeline):
    noise = torch.stack([torch.randn(4, 8, generator=generator) for generator in image_generators(5, range(3))])
    drawn = latents(pipeline, [0, 1, 2], generator=image_generators(5, range(3)))
    assert torch.equal(latents(pipeline, [0, 1, 2], latents=noise), drawn)
    assert torch.equal(latents(pipeline, [0, 1, 2], latents=noise.double(), batch_size=3), drawn)
    torch.testing.assert_close(latents(pipeline, [0, 1, 2], latents=noise, batch_size=2), drawn, atol=1e-4, rtol=1e-4)
    assert latents(pipeline, None, latents=noise).shape == (3, 4, 8), "as many as there is noise"


@pytest.mark.parametrize("name", ["dpm_solver", "heun"])
def test_a_callback_sees_every_step_of_every_batch(pipeline, name):
    pipeline.scheduler = swap_scheduler(name, pipeline.scheduler)
    seen = []

    def note(pipe, step, timestep, tensors):
        assert pipe is pipeline and pipe.guidance_scale == 2.0
        seen.append((step, float(timestep), tuple(tensors["latents"].shape)))
        return {}

    arguments = {"generator": image_generators(0, range(3)), "guidance_scale": 2.0, "batch_size": 2}
    watched = latents(pipeline, [0, 1, 2], callback_on_step_end=note, **arguments)
    levels = pipeline.scheduler.timesteps.tolist()
    assert pipeline.num_timesteps == len(levels) == (5 if name == "dpm_solver" else 9)
    assert seen == [(i, level, (n, 4, 8)) for n in (2, 1) for i, level in enumerate(levels)]
    arguments["generator"] = image_generators(0, range(3))
    assert torch.equal(latents(pipeline, [0, 1, 2], **arguments), watched)


def test_a_callback_may_replace_the_latents(pipeline):
    last = torch.randn(1, 4, 8)
    sampled = latents(pipeline, [0], callback_on_step_end=lambda pipe, step, timestep, tensors: {"latents": last})
    torch.testing.assert_close(sampled, pipeline.normalizer.restore(last))
    for wrong, message in (
        (torch.zeros(2, 4, 8), r"latents must be \[1, 4, 8\]"),
        (last * float("nan"), "latents must be finite"),
    ):
        with pytest.raises(InputError, match=message):
            latents(pipeline, [0], callback_on_step_end=lambda *_, wrong=wrong: {"latents": wrong})


def test_a_callback_may_interrupt_and_end_guidance(pipeline):
    steps, rows = [], []

    def stop(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._guidance_scale, pipe._interrupt = 1.0, step == 2

    pipeline.denoiser.register_forward_pre_hook(lambda module, arguments: rows.append(len(arguments[0])))
    assert latents(pipeline, [0], guidance_scale=2.0, callback_on_step_end=stop).isfinite().all()
    assert steps == [0, 1, 2] and rows == [2, 1, 1]
    assert latents(pipeline, [0]).isfinite().all() and not pipeline.interrupt


def test_diffusers_own_callback_classes(pipeline):
    class Note(PipelineCallback):
        tensor_inputs = ["latents"]  # noqa: RUF012

        def callback_fn(self, pipe, step, timestep, tensors):
            steps.append(step)
            return tensors

    steps = []
    latents(pipeline, [0], callback_on_step_end=Note(cutoff_step_ratio=0.5, cutoff_step_index=None))
    assert steps == [0, 1, 2, 3, 4]


# a pipeline's settings


def test_a_pipeline_keeps_its_settings_when_saved(pipeline, tmp_path):
    own = {"num_inference_steps": 3, "guidance_scale": 2.0, "guidance_interval": [0.1, 0.9]}
    settled = LatentDiffusionPipeline(**pipeline.components, sampling=own)
    settled.save_pretrained(tmp_path)
    asked = {"generator": image_generators(0, [0]), "output_type": "latent"}
    expected = pipeline([1], **own, **asked).images
    for loaded in (settled, load_pipeline(tmp_path)):
        loaded.set_progress_bar_config(disable=True)
        asked["generator"] = image_generators(0, [0])
        assert torch.equal(loaded([1], **asked).images, expected)
        assert len(loaded.scheduler.timesteps) == 3
    assert pipeline_sampling(tmp_path) == own
    asked["generator"] = image_generators(0, [0])
    assert not torch.equal(settled([1], guidance_scale=1.0, **asked).images, expected), "an argument goes first"
    assert pipeline.sampling_settings() == {
        "num_inference_steps": 50,
        "guidance_scale": 1.0,
        "guidance_interval": (0, 1),
    }


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"steps": 3}, "LatentDiffusionPipeline has no setting 'steps'.* num_inference_steps, guidance_scale"),
        ({"guidance_scale": "2"}, "guidance_scale must be a finite number; got '2'"),
        ({"num_inference_steps": 1001}, "num_inference_steps must be an integer from 1 to 1000"),
    ],
)
def test_invalid_settings_of_a_pipeline(pipeline, sampling, message):
    with pytest.raises(InputError, match=message):
        LatentDiffusionPipeline(**pipeline.components, sampling=sampling)


# numbers that are not finite, number types, memory


def test_a_diverged_denoiser_is_an_error_not_a_black_image(pipeline):
    with torch.no_grad():
        pipeline.denoiser.head.bias.fill_(float("nan"))
    with pytest.raises(InputError, match=r"latents that are not finite \(NaN or infinite\): the denoiser has diverged"):
        pipeline([0], num_inference_steps=2)


def test_a_damaged_decoder_is_an_error_not_a_black_image(pipeline):
    with torch.no_grad():
        pipeline.autoencoder.decoder.mlp[-1].bias.fill_(float("inf"))
    with pytest.raises(InputError, match="the rendered values are not finite"):
        pipeline([0], num_inference_steps=2)


def test_bf16_draws_nearly_the_same(pipeline):
    """Denoiser and decoder in bf16, everything in between in float32."""
    asked = {"num_inference_steps": 20, "guidance_scale": 2.0}

    def draw(**options):
        return pipeline([0, 1], generator=image_generators(0, range(2)), **asked, **options).images

    exact, pixels = draw(output_type="latent"), draw(output_type="uint8")
    pipeline.to(torch.bfloat16)
    seen = []
    pipeline.denoiser.register_forward_hook(lambda module, arguments, output: seen.append(output.dtype))
    rough = draw(
        output_type="latent", callback_on_step_end=lambda p, s, t, tensors: seen.append(tensors["latents"].dtype)
    )
    assert seen == [torch.bfloat16, torch.float32] * 20 and rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()
    assert (draw(output_type="uint8").int() - pixels.int()).abs().max() <= 4
    assert pipeline.to(torch.float16)([0], num_inference_steps=2, output_type="uint8").images.shape == (1, 1, 8, 8)


def test_one_step_that_would_not_start_at_noise_is_refused(pipeline):
    pipeline.scheduler = swap_scheduler("euler", pipeline.scheduler)
    with pytest.raises(
        InputError, match="must be at least 2 for EulerDiscreteScheduler: its only step would be at level 0"
    ):
        pipeline([0], num_inference_steps=1)


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_an_interval_from_0_to_1_guides_every_step(pipeline, name):
    pipeline.scheduler = swap_scheduler(name, pipeline.scheduler)
    rows = []
    pipeline.denoiser.register_forward_pre_hook(lambda module, arguments: rows.append(len(arguments[0])))
    latents(pipeline, [0], guidance_scale=2.0)
    assert rows == [2] * len(pipeline.scheduler.timesteps)
    rows.clear()
    latents(pipeline, [0], guidance_scale=2.0, guidance_interval=(0.4, 0.6))
    assert rows == [2 if 0.4 <= float(t) / 999 <= 0.6 else 1 for t in pipeline.scheduler.timesteps]


def test_parts_that_do_not_fit_are_refused(pipeline):
    parts = dict(pipeline.components)
    wrong = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type="epsilon")
    with pytest.raises(InputError, match='must have prediction_type="sample"'):
        LatentDiffusionPipeline(**{**parts, "scheduler": wrong})
    with pytest.raises(InputError, match="does not fit an autoencoder with latents"):
        LatentDiffusionPipeline(**{**parts, "denoiser": woken(num_tokens=5)})


def test_a_model_without_classes(pipeline):
    parts = {**pipeline.components, "denoiser": woken(num_classes=0)}
    unconditional = LatentDiffusionPipeline(**parts)
    unconditional.set_progress_bar_config(disable=True)
    assert latents(unconditional, None, num_images=3).shape == (3, 4, 8)
    with pytest.raises(InputError, match="trained without classes: leave class_labels out"):
        unconditional([0])
