"""Options of the sampling scripts: what is meant, and a message for what cannot be."""

import argparse
import shutil

import pytest
import torch

from genrep.devices import DTYPES
from genrep.diffusion import NoiseSpec
from genrep.diffusion.noise_levels import NoiseLevels
from genrep.diffusion.schedulers import make_scheduler, scheduler_name
from genrep.errors import InputError
from genrep.models.normalizer import LatentNormalizer
from genrep.pipelines.diffusion import LatentDiffusionPipeline
from genrep.pipelines.options import add_device_options, add_sampling_options, parse_classes, parse_sampling, parse_size
from genrep.randomness import image_generators
from tests.models.test_denoiser import woken
from tests.tiny import tiny_autoencoder

ANIMALS = {0: "cat", 1: "dog", 2: "sea lion", 3: "4-5"}
DIGITS = {label: str(label) for label in range(10)}


# classes


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("0-9", list(range(10))),
        ("3,5,7", [3, 5, 7]),
        ("7, 3 ,3", [7, 3, 3]),
        ("1-3,9,2-2", [1, 2, 3, 9, 2]),
    ],
)
def test_labels_and_ranges_in_the_order_given(text, labels):
    assert parse_classes(text, DIGITS) == labels


def test_names_of_classes():
    assert parse_classes("dog,cat,sea lion,2,0-1", ANIMALS) == [1, 0, 2, 2, 0, 1]
    assert parse_classes("4-5", ANIMALS) == [3]  # a name that looks like a range
    assert parse_classes("1", {0: "1", 1: "0"}) == [1]  # a number is a label, whatever the names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", "--classes: class 10 does not exist; this model has 0 to 9"),
        ("8-12", "--classes: class 10 does not exist; this model has 0 to 9"),
        ("5-3", "--classes: '5-3' is no class; give labels, ranges or names, as in 0-9 or 3,5"),
        ("-1", "--classes: '-1' is no class"),
        ("", "--classes: '' is no class"),
        ("1,,2", "--classes: '' is no class"),
        ("1.5", r"--classes: '1.5' is no class"),
    ],
)
def test_classes_that_are_not_there_are_refused(text, message):
    with pytest.raises(InputError, match=f"^{message}"):
        parse_classes(text, DIGITS)


def test_a_misspelt_class_names_the_nearest():
    with pytest.raises(InputError, match=r"'sea loin' is no class; .*; did you mean 'sea lion'\?$"):
        parse_classes("sea loin", ANIMALS)


def test_a_model_without_classes_takes_none():
    with pytest.raises(
        InputError, match=r"^--classes '3': this model was trained without classes; leave it out and give --num-images$"
    ):
        parse_classes("3", {})


def test_a_superscript_is_no_label():
    with pytest.raises(InputError, match="'²' is no class"):
        parse_classes("²", DIGITS)


# sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [(None, None), ("64", (64, 64)), ("48x64", (48, 64)), ("48×64", (48, 64)), ("48,64", (48, 64)), ("1", (1, 1))],
)
def test_a_size_is_height_then_width(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0x8", "8x0", "-8", "8x", "x8", "8x8x8", "8.5", "big", "8 x 8"])
def test_other_sizes_are_refused(text):
    with pytest.raises(
        InputError, match=f"^--size '{text}': give one positive number, or HEIGHTxWIDTH, as in 64 or 48x64$"
    ):
        parse_size(text)


# all of sampling


def sampling(place, *arguments: str):
    parser = argparse.ArgumentParser()
    add_sampling_options(parser)
    return parse_sampling(parser.parse_args(arguments), str(place))


def test_defaults_without_a_run(tmp_path):
    found = sampling(tmp_path)
    assert (found.scheduler, found.steps, found.guidance_scale, found.guidance_interval) == (
        None,
        30,
        1.5,
        (0.0, 1.0),
    )
    assert (found.seed, found.size, found.region, found.batch_size) == (0, None, None, 64)


def test_options_go_over_the_runs_own_settings(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "sampling: {scheduler: ddim, steps: 7, guidance_scale: 3, guidance_interval: [0.1, 0.2]}\nrun: {folder: x}\n"
    )
    found = sampling(tmp_path)
    assert (found.scheduler, found.steps, found.guidance_scale, found.guidance_interval) == ("ddim", 7, 3.0, (0.1, 0.2))
    found = sampling(
        tmp_path, "--steps", "9", "--scheduler=heun", "--guidance-scale", "0", "--guidance-interval", "0,0.5", "--seed", "4", "--size", "8x16",
        "--region=-1,-0.5,0,.5", "--batch-size", "3",
    )  # fmt: skip
    assert (found.scheduler, found.steps, found.guidance_scale, found.guidance_interval) == ("heun", 9, 0.0, (0.0, 0.5))
    assert (found.seed, found.size, found.region, found.batch_size) == (4, (8, 16), (-1.0, -0.5, 0.0, 0.5), 3)


def test_a_pipeline_folder_brings_its_own_settings(tmp_path, pipeline):
    """An option goes first, then a run's config.yaml, then what the pipeline was saved with, then the spec's defaults."""
    own = {"num_inference_steps": 4, "guidance_scale": 3.0, "guidance_interval": [0.2, 0.7]}
    LatentDiffusionPipeline(**pipeline.components, sampling=own).save_pretrained(tmp_path / "run" / "pipeline")
    pipeline.save_pretrained(tmp_path / "earlier" / "pipeline")
    (tmp_path / "run" / "config.yaml").write_text("sampling: {steps: 7, guidance_scale: 2}\nrun: {folder: x}\n")
    (tmp_path / "earlier" / "config.yaml").write_text("sampling: {steps: 9}\nrun: {folder: x}\n")
    shutil.copytree(tmp_path / "run" / "pipeline", tmp_path / "copied")
    shutil.copytree(tmp_path / "earlier" / "pipeline", tmp_path / "copied_earlier")

    def found(place, *arguments):
        settings = sampling(tmp_path / place, *arguments)
        return settings.steps, settings.guidance_scale, settings.guidance_interval, settings.scheduler

    assert found("run") == (7, 2.0, (0.0, 1.0), None)
    for place in ("run/pipeline", "copied"):
        assert found(place) == (4, 3.0, (0.2, 0.7), None)
        assert found(place, "--steps=5") == (5, 3.0, (0.2, 0.7), None)
    assert found("earlier/pipeline")[0] == 9, "saved without settings: the run's"
    assert found("copied_earlier") == (30, 1.5, (0.0, 1.0), None), "as before pipelines had settings"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--scheduler=dimm", r"sampling: scheduler: got 'dimm'; input should be .*; did you mean 'ddim'\?"),
        (
            "--scheduler=",
            r"sampling: scheduler: got ''; input should be 'ddpm', 'ddim', 'dpm_solver', 'euler' or 'heun'",
        ),
        ("--guidance-interval=0.7,0.3", r"sampling: guidance_interval \[0.7, 0.3\] runs backwards"),
        ("--steps=0", r"sampling: steps: got 0; input should be greater than 0"),
        ("--guidance-scale=-1", r"sampling: guidance_scale: got -1.0; input should be greater than or equal to 0"),
        ("--guidance-scale=nan", r"sampling: guidance_scale: got nan; input should be a finite number"),
        ("--guidance-interval=0.5", r"--guidance-interval '0.5': give 2 numbers with commas between them"),
        ("--guidance-interval=0,half", r"--guidance-interval '0,half': give 2 numbers with commas between them"),
        ("--guidance-interval=0,1.5", r"sampling: guidance_interval: got 1.5; input should be less than or equal to 1"),
        ("--region=0,0,1", r"--region '0,0,1': give 4 numbers with commas between them"),
        ("--region=0,0,1,x", r"--region '0,0,1,x': give 4 numbers with commas between them"),
        ("--region=", r"--region '': give 4 numbers with commas between them"),
        ("--size=0", r"--size '0': give one positive number"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, option, message):
    with pytest.raises(InputError, match=f"^{message}"):
        sampling(tmp_path, option)


def test_a_region_may_begin_with_a_minus(tmp_path):
    try:
        assert sampling(tmp_path, "--region", "-1,-1,0,0").region == (-1, -1, 0, 0)
    except SystemExit as stop:
        raise AssertionError("argparse refused it") from stop


# drawing


@pytest.fixture
def pipeline():
    scheduler = make_scheduler("dpm_solver", NoiseLevels(NoiseSpec(), (4, 8)))
    normalizer = LatentNormalizer.from_statistics(torch.zeros(4, 8), torch.ones(4, 8))
    pipeline = LatentDiffusionPipeline(tiny_autoencoder(), woken(), normalizer, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_sampling_is_the_pipelines_call(tmp_path, pipeline):
    found = sampling(
        tmp_path,
        "--steps=3",
        "--guidance-scale=2",
        "--guidance-interval=0.2,0.8",
        "--seed=5",
        "--size=6x4",
        "--region=-1,-1,0,0",
    )
    images = found.images(pipeline, [2, 9], [0, 1])
    assert images.shape == (2, 1, 6, 4) and images.dtype == torch.uint8
    direct = pipeline(
        [0, 1], guidance_scale=2.0, guidance_interval=(0.2, 0.8), num_inference_steps=3, height=6, width=4, region=(-1, -1, 0, 0),
        generator=image_generators(5, [2, 9]), output_type="uint8",
    ).images  # fmt: skip
    assert torch.equal(images, direct)
    assert found.images(pipeline, [0, 1, 2], None).shape == (3, 1, 6, 4)


def test_the_scheduler_asked_for_draws(tmp_path, pipeline):
    sampling(tmp_path, "--steps=2", "--scheduler=euler").images(pipeline, [0], [0])
    assert scheduler_name(pipeline.scheduler) == "euler"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--region=0,0,0,1", r"region \(0.0, 0.0, 0.0, 1.0\) is empty"),
        ("--region=0,0,nan,1", r"region must be 4 finite numbers"),
    ],
)
def test_what_only_the_pipeline_refuses(tmp_path, pipeline, option, message):
    with pytest.raises(InputError, match=message):
        sampling(tmp_path, option, "--steps=2").images(pipeline, [0], [0])


# devices


def test_number_types_have_the_names_of_devices():
    parser = argparse.ArgumentParser()
    add_device_options(parser)
    assert parser.parse_args([]).dtype == "fp32"
    for name in DTYPES:
        assert parser.parse_args(["--dtype", name]).dtype == name
    with pytest.raises(SystemExit):
        parser.parse_args(["--dtype", "fp8"])
