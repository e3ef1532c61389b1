"""The pipeline: independence of batch, guidance, sizes, save and load, and its frozen module paths."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from genrep.diffusion import NoiseSpec
from genrep.diffusion.noise_levels import NoiseLevels
from genrep.diffusion.schedulers import SCHEDULERS, make_scheduler, swap_scheduler
from genrep.errors import InputError
from genrep.models.normalizer import LatentNormalizer
from genrep.pipelines import load_pipeline
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


def test_guidance_is_the_formula_in_one_batch(pipeline):
    noisy, labels = torch.randn(2, 4, 8), torch.tensor([0, 2])
    calls = []
    pipeline.denoiser.register_forward_pre_hook(lambda module, arguments: calls.append(len(arguments[0])))
    guided = pipeline._predict(noisy, torch.tensor(500), labels, 2.5)
    assert calls == [4]
    conditional = pipeline.denoiser(noisy, torch.full((2,), 500), labels)
    unconditional = pipeline.denoiser(noisy, torch.full((2,), 500), None)
    torch.testing.assert_close(guided, unconditional + 2.5 * (conditional - unconditional), atol=1e-5, rtol=1e-4)


def test_guidance_interval_saves_forward_passes(pipeline):
    rows = []
    pipeline.denoiser.register_forward_pre_hook(lambda module, arguments: rows.append(len(arguments[0])))
    latents(pipeline, [0], guidance_scale=2.0, guidance_interval=(0.3, 0.7))
    timesteps = pipeline.scheduler.timesteps.tolist()
    assert rows == [2 if 0.3 <= t / 999 <= 0.7 else 1 for t in timesteps]
    assert 1 in rows and 2 in rows


def test_scale_one_and_an_empty_interval_are_no_guidance(pipeline):
    plain = latents(pipeline, [1], generator=image_generators(0, [0]))
    assert torch.equal(latents(pipeline, [1], generator=image_generators(0, [0]), guidance_scale=1.0), plain)
    outside = latents(
        pipeline, [1], generator=image_generators(0, [0]), guidance_scale=9.0, guidance_interval=(0.123456, 0.123457)
    )
    assert torch.equal(outside, plain)


def test_any_size_and_region_is_the_same_sample(pipeline):
    def pixels(**where):
        return pipeline(
            [1], num_inference_steps=5, generator=image_generators(0, [0]), output_type="pt", **where
        ).images

    whole = pixels(height=16, width=24)
    assert whole.shape == (1, 1, 16, 24) and whole.dtype == torch.uint8
    crop = pixels(height=8, width=12, region=(-1, -1, 0, 0))
    assert (crop.int() - whole[:, :, :8, :12].int()).abs().max() <= 1
    assert pixels().shape == (1, 1, 8, 8)


def test_output_types_agree(pipeline):
    outputs = {
        kind: pipeline([0, 1], num_inference_steps=3, generator=image_generators(0, [0, 1]), output_type=kind).images
        for kind in ("pil", "np", "pt")
    }
    assert outputs["pil"][0].mode == "L" and outputs["pil"][0].size == (8, 8)
    assert list(outputs["pil"][1].getdata()) == outputs["pt"][1].flatten().tolist()
    assert (outputs["np"] * 255).round().astype("uint8").transpose(0, 3, 1, 2).tolist() == outputs["pt"].tolist()


def test_save_and_load_are_equal(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    for loaded in (LatentDiffusionPipeline.from_pretrained(tmp_path), load_pipeline(tmp_path)):
        loaded.set_progress_bar_config(disable=True)
        one, two = (
            latents(p, [0, 2], generator=image_generators(1, [0, 1]), guidance_scale=1.5) for p in (pipeline, loaded)
        )
        assert torch.equal(one, two)
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
    with pytest.raises(InputError, match="num_inference_steps 1001 cannot be: give 1 to 1000"):
        pipeline([0], num_inference_steps=1001)


def test_bf16_renders(pipeline):
    images = pipeline.to(torch.bfloat16)([0], num_inference_steps=2, output_type="pt").images
    assert images.shape == (1, 1, 8, 8)


def test_what_cannot_be_is_refused(pipeline):
    for arguments, message in (
        ({"class_labels": [3]}, "class label 3 is not one of 0 to 2"),
        ({"class_labels": [-1]}, "class label -1 is not one of 0 to 2"),
        ({"class_labels": [0], "num_images": 2}, "1 class labels for 2 images"),
        ({"class_labels": []}, "0 class labels"),
        ({"num_images": 0}, "num_images 0 cannot be"),
        ({"class_labels": [0], "batch_size": 0}, "batch_size 0 cannot be"),
        ({"class_labels": [0], "guidance_interval": (0.7, 0.3)}, "guidance_interval .* cannot be"),
        ({"class_labels": [0], "num_inference_steps": 0}, "num_inference_steps 0 cannot be"),
        ({"class_labels": [0], "output_type": "jpg"}, "output_type 'jpg' is not one of"),
        ({"class_labels": [0], "height": 0}, "size .* cannot be"),
        ({"class_labels": [0], "region": (1, 1, 0, 0)}, "is empty"),
        ({"class_labels": [0, 1], "generator": image_generators(0, [0])}, "1 generators for 2 images"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline(**arguments)


def test_parts_that_do_not_fit_are_refused(pipeline):
    parts = dict(pipeline.components)
    wrong = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type="epsilon")
    with pytest.raises(InputError, match='takes prediction_type="sample"'):
        LatentDiffusionPipeline(**{**parts, "scheduler": wrong})
    with pytest.raises(InputError, match="does not fit an autoencoder of latents"):
        LatentDiffusionPipeline(**{**parts, "denoiser": woken(num_tokens=5)})


def test_a_model_without_classes(pipeline):
    parts = {**pipeline.components, "denoiser": woken(num_classes=0)}
    unconditional = LatentDiffusionPipeline(**parts)
    unconditional.set_progress_bar_config(disable=True)
    assert latents(unconditional, None, num_images=3).shape == (3, 4, 8)
    with pytest.raises(InputError, match="trained without classes: leave them out"):
        unconditional([0])
