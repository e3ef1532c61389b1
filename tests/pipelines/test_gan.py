"""The GAN's pipeline: pixels and latents, any size, the same images for any batch size."""

import numpy as np
import pytest
import torch

from genrep.errors import InputError
from genrep.models.generator import CoordinateGenerator
from genrep.models.normalizer import LatentNormalizer
from genrep.pipelines import load_pipeline, pipeline_name
from genrep.pipelines.gan import GANPipeline, spherical
from genrep.randomness import image_generators
from tests.tiny import tiny_autoencoder

SMALL = {"noise_dim": 5, "widths": [8, 8, 8], "tile": 2, "cells": [2, 4], "num_frequencies": 2}


def pixels(num_classes=3, **options):
    torch.manual_seed(0)
    return GANPipeline(
        CoordinateGenerator(2, 1, num_classes, **SMALL),
        sample_size=(8, 10),
        id2label={0: "a", 1: "b", 2: "c"},
        **options,
    )


def latents(num_classes=3):
    torch.manual_seed(0)
    autoencoder = tiny_autoencoder()
    normalizer = LatentNormalizer.from_statistics(torch.randn(4, 8), torch.rand(4, 8) + 0.5)
    return GANPipeline(CoordinateGenerator(1, 8, num_classes, **SMALL), autoencoder, normalizer)


def images(pipeline, *arguments, seed=0, **options):
    return pipeline(*arguments, generator=torch.Generator().manual_seed(seed), output_type="uint8", **options).images


@pytest.mark.parametrize("make", [pixels, latents])
def test_images_of_any_size_and_region_and_kind(make):
    pipeline = make()
    assert images(pipeline, [0, 2, 1]).shape == (3, 1, *pipeline.image_shape)
    large = images(pipeline, [0, 2], height=16, width=20)
    assert large.shape == (2, 1, 16, 20)
    part = images(pipeline, [0, 2], height=8, width=10, region=(-1, 0, 0, 1))
    assert (part.int() - large[:, :, :8, 10:].int()).abs().max() <= 1
    assert pipeline([1], output_type="np").images.shape == (1, *pipeline.image_shape, 1)
    assert pipeline([1]).images[0].size == pipeline.image_shape[::-1] and len(pipeline([1], return_dict=False)) == 1


@pytest.mark.parametrize("make", [pixels, latents])
def test_an_image_depends_on_its_generator_alone(make):
    pipeline, labels = make(), [0, 1, 2, 0]
    whole = pipeline(labels, generator=image_generators(3, range(4)), output_type="uint8").images
    apart = pipeline(labels, generator=image_generators(3, range(4)), output_type="uint8", batch_size=3).images
    assert (whole.int() - apart.int()).abs().max() <= 1
    alone = pipeline([2], generator=image_generators(3, [2]), output_type="uint8").images
    assert (whole[2].int() - alone[0].int()).abs().max() <= 1
    assert not torch.equal(whole[0], whole[3])


def test_latents_are_what_the_decoder_renders():
    pipeline = latents()
    sampled = pipeline([0, 1], generator=torch.Generator().manual_seed(0), output_type="latent").images
    assert sampled.shape == (2, 4, 8)
    rendered = pipeline.autoencoder.render(sampled)
    expected = (rendered.clamp(-1, 1) + 1) * 127.5
    assert (expected - images(pipeline, [0, 1]).float()).abs().max() <= 1


def test_truncation_makes_samples_alike():
    pipeline = pixels(num_classes=0)
    spread = [images(pipeline, num_images=8, truncation=factor).float().std(0).mean() for factor in (0.0, 0.5, 1.0)]
    assert spread[0] == 0 < spread[1] < spread[2]


def test_without_labels_classes_come_in_turn():
    pipeline = pixels()
    assert torch.equal(images(pipeline, num_images=5), images(pipeline, [0, 1, 2, 0, 1]))


@pytest.mark.parametrize("make", [pixels, latents])
def test_a_saved_pipeline_draws_the_same(make, tmp_path):
    pipeline = make()
    pipeline.save_pretrained(tmp_path / "pipeline")
    assert pipeline_name(tmp_path) == "GANPipeline"
    loaded = load_pipeline(tmp_path)
    assert torch.equal(images(loaded, [0, 1]), images(pipeline, [0, 1]))
    assert (loaded.image_shape, loaded.channels, loaded.num_classes) == (pipeline.image_shape, 1, 3)


def test_invalid_arguments_are_refused():
    pipeline = pixels()
    for arguments, message in (
        ({"num_images": 0}, "num_images must be an integer from 1; got 0"),
        ({"class_labels": [3]}, "class_labels must be in 0 to 2, the classes of this model; got 3"),
        ({"class_labels": [0], "num_images": 2}, "class_labels must have one label per image; got 1 for 2 images"),
        ({"class_labels": [0], "truncation": -1.0}, "truncation must be a finite number from 0; got -1.0"),
        ({"class_labels": [0], "batch_size": -1}, "batch_size must be an integer from 1; got -1"),
        ({"class_labels": [0], "height": 0}, "size must be a positive integer"),
        ({"class_labels": [0], "region": (0, 0, 0, 1)}, "region must have every start below its end"),
        ({"class_labels": [0], "output_type": "latent"}, '"latent" needs a GAN of latents'),
        ({"class_labels": [0], "output_type": "jpg"}, "output_type must be one of .*; got 'jpg'"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline(**arguments)
    with pytest.raises(InputError, match="this model was trained without classes: leave class_labels out"):
        pixels(num_classes=0)([0])
    with pytest.raises(InputError, match="this GAN has 3 classes: give one label per noise vector"):
        pipeline.from_noise(torch.zeros(2, 5), None, 8)
    generator = CoordinateGenerator(2, 1, 0, **SMALL)
    with pytest.raises(
        InputError, match="give autoencoder and normalizer for a GAN of latents, or sample_size for a GAN of pixels"
    ):
        GANPipeline(generator)
    with pytest.raises(InputError, match="generator_model must have 1 axes and 8 channels here; got 2 and 1"):
        GANPipeline(generator, tiny_autoencoder(), LatentNormalizer(4, 8))


@pytest.mark.parametrize("make", [pixels, latents])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_labels": "2"}, "class_labels must be an integer; got '2'"),
        ({"class_labels": [0.5]}, "every number of class_labels must be an integer; got 0.5"),
        ({"truncation": float("nan")}, "truncation must be a finite number from 0; got nan"),
        ({"truncation": "1"}, "truncation must be a finite number from 0; got '1'"),
        ({"latents": torch.zeros(2, 4)}, r"latents must be \[2, 5\], noise for each image; got \[2, 4\]"),
        ({"latents": torch.full((2, 5), float("inf"))}, "latents must be finite; 10 of 10 numbers are NaN or infinite"),
        ({"class_labels": [0], "latents": torch.zeros(2, 5)}, r"latents must be \[1, 5\]"),
        ({"latents": [0.0]}, r"latents must be a torch tensor \[1, 5\] of floating-point numbers; got list"),
    ],
)
def test_invalid_types_and_numbers(make, arguments, message):
    with pytest.raises(InputError, match=message):
        make()(**arguments)


@pytest.mark.parametrize("make", [pixels, latents])
def test_noise_from_the_caller_equals_the_generators(make):
    pipeline = make()
    noise = torch.stack([torch.randn(5, generator=generator) for generator in image_generators(3, range(3))])
    from_generators = pipeline(
        [0, 1, 2], generator=image_generators(3, range(3)), truncation=0.7, output_type="uint8"
    ).images
    from_noise = pipeline(np.array([0, 1, 2]), latents=noise, truncation=np.float32(0.7), output_type="uint8").images
    assert (from_noise.int() - from_generators.int()).abs().max() <= 1
    assert pipeline(latents=noise).images[2].size == pipeline.image_shape[::-1], "as many as there is noise"
    walked = pipeline.from_noise(noise * 0.7, [0, 1, 2], pipeline.image_shape, output_type="uint8").images
    assert torch.equal(walked, from_generators)


def test_a_gan_keeps_its_truncation_when_saved(tmp_path):
    settled = pixels(sampling={"truncation": 0.5})
    settled.save_pretrained(tmp_path)
    expected = images(pixels(), [0, 1], truncation=0.5)
    for pipeline in (settled, load_pipeline(tmp_path)):
        assert torch.equal(images(pipeline, [0, 1]), expected)
    assert not torch.equal(images(settled, [0, 1], truncation=1.0), expected)
    with pytest.raises(InputError, match="GANPipeline has no setting 'truncaton'; did you mean 'truncation'"):
        pixels(sampling={"truncaton": 0.5})


@pytest.mark.parametrize(
    ("make", "message"),
    [(pixels, "the rendered values are not finite"), (latents, "the generator gave latents that are not finite")],
)
def test_a_diverged_generator_is_an_error_not_a_black_image(make, message):
    pipeline = make()
    with torch.no_grad():
        pipeline.generator_model.to_values.bias.fill_(float("nan"))
    with pytest.raises(InputError, match=message):
        pipeline([0])


@pytest.mark.parametrize("make", [pixels, latents])
def test_bf16_draws_nearly_the_same(make):
    pipeline = make()
    exact = images(pipeline, [0, 1, 2])
    rough = images(pipeline.to(torch.bfloat16), [0, 1, 2])
    assert rough.dtype == torch.uint8 and (rough.int() - exact.int()).float().abs().mean() < 3
    assert images(pipeline.to(torch.float16), [0, 1, 2]).shape == exact.shape


def test_spherical_interpolation_keeps_to_the_arc():
    start, end = torch.randn(64), torch.randn(64)
    end = end / end.norm() * start.norm()
    torch.testing.assert_close(spherical(start, end, 0), start)
    torch.testing.assert_close(spherical(start, end, 1.0), end)
    middle = spherical(start, end, 0.5)
    assert middle.norm() == pytest.approx(float(start.norm()), rel=1e-4)
    assert torch.dot(middle, start) == pytest.approx(float(torch.dot(middle, end)), rel=1e-4)
    torch.testing.assert_close(spherical(start, start, 0.3), start)
