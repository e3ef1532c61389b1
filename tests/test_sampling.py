"""The command line of scripts that draw samples: a pipeline's settings, overrides, former spellings, flags."""

import json
import shutil

import pytest
import torch

from genrep.diffusion import NoiseSpec
from genrep.diffusion.noise_levels import NoiseLevels
from genrep.diffusion.schedulers import make_scheduler, scheduler_name
from genrep.errors import InputError
from genrep.models.generator import CoordinateGenerator
from genrep.models.normalizer import LatentNormalizer
from genrep.pipelines import PIPELINES, DiffusionSamplingSpec, GANSamplingSpec, load_pipeline
from genrep.pipelines.diffusion import LatentDiffusionPipeline
from genrep.pipelines.gan import GANPipeline
from genrep.randomness import image_generators
from genrep.sampling import FORMER_FLAGS, Sampling, parse_sampling
from tests.models.test_denoiser import woken
from tests.scripts import PROJECT
from tests.tiny import tiny_autoencoder

OWN = {"num_inference_steps": 4, "guidance_scale": 3.0, "guidance_interval": [0.2, 0.7]}
EARLIER = PROJECT / "tests" / "fixtures" / "earlier_pipeline"
"""Saved by a version whose pipelines had no settings."""


def sampling(place, *arguments: str, **options) -> Sampling:
    argv = [str(place), *arguments]
    return parse_sampling("help", lambda parser: parser.add_argument("run"), argv, **options)[0]


def drawn(place, *arguments: str) -> Sampling:
    """Parse an earlier version's command line, which warns about every renamed flag."""
    former = sum(argument.partition("=")[0] in FORMER_FLAGS for argument in arguments)
    with pytest.warns(FutureWarning) as warnings:
        result = sampling(place, *arguments)
    assert len(warnings) == former
    return result


def in_short(sampling: Sampling) -> tuple:
    settings = sampling.settings
    scheduler = settings.scheduler if "scheduler" in settings.model_fields_set else None
    return settings.num_inference_steps, settings.guidance_scale, settings.guidance_interval, scheduler


@pytest.fixture(scope="module")
def pipeline():
    scheduler = make_scheduler("dpm_solver", NoiseLevels(NoiseSpec(), (4, 8)))
    normalizer = LatentNormalizer.from_statistics(torch.zeros(4, 8), torch.ones(4, 8))
    return LatentDiffusionPipeline(tiny_autoencoder(), woken(), normalizer, scheduler)


@pytest.fixture(scope="module")
def run(pipeline, tmp_path_factory):
    """The folder of a diffusion run whose config has changed since it ended."""
    folder = tmp_path_factory.mktemp("run")
    LatentDiffusionPipeline(**pipeline.components, sampling=OWN).save_pretrained(folder / "pipeline")
    (folder / "config.yaml").write_text("sampling: {num_inference_steps: 7}\nrun: {folder: x}\n")
    return folder


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gan")
    generator = CoordinateGenerator(2, 1, 0, noise_dim=5, widths=[8, 8], tile=[2], cells=[2], num_frequencies=2)
    GANPipeline(generator, sample_size=(8, 10), sampling={"truncation": 0.5}).save_pretrained(folder / "pipeline")
    return folder


# one spelling


def test_settings_have_the_names_of_the_pipelines_arguments():
    for name, kind in PIPELINES.items():
        pipeline_class = {"LatentDiffusionPipeline": LatentDiffusionPipeline, "GANPipeline": GANPipeline}[name]
        arguments = pipeline_class.__call__.__wrapped__.__annotations__.keys()
        components = pipeline_class.__init__.__annotations__.keys()
        assert set(kind.defaults) == kind.sampling.model_fields.keys() & arguments
        assert kind.sampling.model_fields.keys() - arguments <= components
        assert pipeline_class.DEFAULTS is kind.defaults
        kind.sampling.model_validate(kind.defaults)


def test_a_saved_pipeline_keeps_its_settings(run, tmp_path):
    """In Python and in scripts, after copying it, and after changes to the run's config."""
    shutil.copytree(run / "pipeline", tmp_path / "copied")
    for place in (run, run / "pipeline", tmp_path / "copied"):
        assert in_short(sampling(place)) == (4, 3.0, [0.2, 0.7], None)
        assert load_pipeline(place).sampling_settings() == {**OWN, "guidance_interval": (0.2, 0.7)}


def test_a_pipeline_made_without_settings_draws_as_in_python(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    assert in_short(sampling(tmp_path)) == (50, 1.0, [0.0, 1.0], None)
    assert load_pipeline(tmp_path).sampling_settings() == {
        "num_inference_steps": 50, "guidance_scale": 1.0, "guidance_interval": (0.0, 1.0),
    }  # fmt: skip


def test_some_settings_leave_the_rest_as_in_python(pipeline, tmp_path):
    LatentDiffusionPipeline(**pipeline.components, sampling={"guidance_scale": 2.0}).save_pretrained(tmp_path)
    assert in_short(sampling(tmp_path)) == (50, 2.0, [0.0, 1.0], None)
    assert load_pipeline(tmp_path).sampling_settings()["num_inference_steps"] == 50


def test_the_command_line_overrides_the_pipelines_settings(run, gan):
    parsed = sampling(
        run, "--sampling.num_inference_steps", "9", "--sampling.scheduler=heun", "--sampling.guidance_scale", "0",
        "--sampling.guidance_interval", "[0, 0.5]", "--seed", "4", "--size", "8x16", "--region=-1,-0.5,0,.5", "--batch-size", "3",
    )  # fmt: skip
    assert in_short(parsed) == (9, 0.0, [0.0, 0.5], "heun")
    assert (parsed.seed, parsed.size, parsed.region, parsed.batch_size) == (4, (8, 16), (-1.0, -0.5, 0.0, 0.5), 3)
    parsed = sampling(run, "--sampling={guidance_scale: 5, num_inference_steps: 2}", "--sampling.num_inference_steps=3")
    assert in_short(parsed) == (3, 5.0, [0.2, 0.7], None)
    assert (parsed.seed, parsed.size, parsed.region, parsed.batch_size) == (0, None, None, 64)
    assert sampling(gan).settings == GANSamplingSpec(truncation=0.5)
    assert sampling(gan, "--sampling.truncation", "0.7").settings == GANSamplingSpec(truncation=0.7)


def test_a_region_may_begin_with_a_minus(run):
    assert sampling(run, "--region", "-1,-1,0,0").region == (-1, -1, 0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--sampling.scheduler=dimm",
            r"command line: sampling.scheduler: must be .*; got 'dimm'; did you mean 'ddim'\?",
        ),
        ("--sampling.num_inference_steps=0", r"command line: sampling.num_inference_steps: .*greater than 0; got 0"),
        ("--sampling.num_inference_steps=2.5", r"command line: sampling.num_inference_steps: .*valid integer; got 2.5"),
        ("--sampling.num_inferense_steps=2", r"command line: sampling.num_inferense_steps: unknown key; did you mean"),
        (
            "--sampling.guidance_scale=-1",
            r"command line: sampling.guidance_scale: .*greater than or equal to 0; got -1",
        ),
        ("--sampling.guidance_scale=.nan", r"command line: sampling.guidance_scale: .*finite number; got nan"),
        ("--sampling.guidance_interval=[0.5]", r"command line: sampling.guidance_interval: .*at least 2 items"),
        ("--sampling.guidance_interval=0,1", r"command line: sampling.guidance_interval: .*valid list; got '0,1'"),
        ("--sampling.guidance_interval=[0,1.5]", r"command line: sampling.guidance_interval: .*equal to 1; got 1.5"),
        (
            "--sampling.guidance_interval=[0.7,0.3]",
            r"command line: sampling: guidance_interval must be \[low, high\] with low <= high; got \[0.7, 0.3\]",
        ),
        (
            "--sampling.truncation=1",
            r"command line: sampling.truncation: unknown key; allowed here: guidance_interval,",
        ),
        (
            "--sampling.guidance_scale",
            r"--sampling.guidance_scale needs a value: write --sampling.guid.* VALUE$",
        ),
        ("--sampling.guidance_scale=[", r"--sampling.guidance_scale: not valid YAML: line 1"),
        ("--data.source=digits", r"command line: data: unknown key; allowed here: sampling$"),
        ("--guidance=3", r"--guidance=3: unknown option; write config keys as --section.key VALUE, and see --help"),
        ("--region=0,0,1", r"--region must be the starts, then the ends, of all axes, .*; got '0,0,1'"),
        ("--region=0,0,1,x", r"--region must be the starts, then the ends, of all axes, .*; got '0,0,1,x'"),
        ("--region=", r"--region must be the starts, then the ends, of all axes, .*; got ''"),
        ("--size=0", r"--size must be a positive integer, .*; got '0'"),
    ],
)
def test_invalid_options_are_refused(run, options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        sampling(run, options)


def test_a_gan_has_no_steps(gan):
    with pytest.raises(
        InputError, match=r"^command line: sampling.num_inference_steps: unknown key; allowed here: truncation$"
    ):
        sampling(gan, "--sampling.num_inference_steps", "5")


def test_a_script_for_one_kind_refuses_another(run, gan):
    with pytest.raises(InputError, match="run.* has a LatentDiffusionPipeline; this script needs a GANPipeline$"):
        sampling(run, pipelines=["GANPipeline"])
    assert sampling(gan, pipelines=["GANPipeline"]).settings.truncation == 0.5


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (3, "model_index.json: sampling: must be a mapping of keys; got 3"),
        ({"steps": 3}, "model_index.json: sampling.steps: unknown key; allowed here: .*num_inference_steps"),
        ({"guidance_scale": "2"}, "model_index.json: sampling.guidance_scale: must be a valid number; got '2'"),
    ],
)
def test_damaged_settings_of_a_pipeline_are_named(run, tmp_path, saved, message):
    shutil.copytree(run / "pipeline", tmp_path / "damaged")
    index = tmp_path / "damaged" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "sampling": saved}))
    with pytest.raises(InputError, match=message):
        sampling(tmp_path / "damaged")


# former spellings


def test_former_flags_are_overrides_with_a_warning(run, gan):
    former = [
        "--steps",
        "9",
        "--scheduler=heun",
        "--guidance-scale",
        "0",
        "--guidance-interval",
        "0,0.5",
        "--seed",
        "4",
    ]
    assert in_short(drawn(run, *former)) == (9, 0.0, [0.0, 0.5], "heun")
    assert in_short(drawn(run, *former, "--sampling.num_inference_steps", "3"))[0] == 3, "the key goes first"
    now = [
        "--sampling={num_inference_steps: 9, scheduler: heun, guidance_scale: 0, guidance_interval: [0, 0.5]}",
        "--seed=4",
    ]
    assert drawn(run, *former) == sampling(run, *now)
    assert drawn(gan, "--truncation=0.7").settings.truncation == 0.7
    with pytest.warns(FutureWarning, match=r"^--steps 9 is now --sampling.num_inference_steps 9$"):
        sampling(run, "--steps", "9")
    with pytest.warns(
        FutureWarning, match=r"^--guidance-interval 0.1,1 is now --sampling.guidance_interval '\[0.1,1\]'$"
    ):
        sampling(run, "--guidance-interval=0.1,1")
    with pytest.warns(FutureWarning, match=r"^command line: sampling.steps is now sampling.num_inference_steps$"):
        assert in_short(sampling(run, "--sampling.steps", "6"))[0] == 6


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--steps=2.5", r"command line: sampling.num_inference_steps: must be a valid integer; got 2.5"),
        ("--guidance-interval=0.5", r"command line: sampling.guidance_interval: .*at least 2 items"),
        ("--guidance-interval=0,half", r"command line: sampling.guidance_interval: .*valid number; got 'half'"),
        ("--truncation=1", r"command line: sampling.truncation: unknown key; allowed here: guidance_interval,"),
    ],
)
def test_former_flags_are_checked_by_their_keys(run, option, message):
    with pytest.warns(FutureWarning), pytest.raises(InputError, match=f"^{message}"):
        sampling(run, option)


def test_a_script_may_have_a_flag_of_a_former_name(gan):
    with pytest.raises(InputError, match="^--steps: unknown option"):
        sampling(gan, "--steps", "3", former_flags=False)


def test_a_pipeline_of_an_earlier_version_draws_by_its_runs_config(tmp_path):
    """Saved without settings: by its run's config or, outside a run, by the spec's defaults, as in that version."""
    shutil.copytree(EARLIER, tmp_path / "run" / "pipeline")
    shutil.copytree(EARLIER, tmp_path / "elsewhere" / "copied")
    (tmp_path / "run" / "config.yaml").write_text(
        "sampling: {scheduler: ddim, steps: 7, guidance_scale: 3, guidance_interval: [0.1, 0.2]}\nrun: {folder: x}\n"
    )
    for place in ("run", "run/pipeline"):
        with pytest.warns(FutureWarning, match=r"config.yaml: sampling.steps is now sampling.num_inference_steps$"):
            assert in_short(sampling(tmp_path / place)) == (7, 3.0, [0.1, 0.2], "ddim")
        with pytest.warns(FutureWarning):
            assert in_short(sampling(tmp_path / place, "--sampling.num_inference_steps=9")) == (
                9,
                3.0,
                [0.1, 0.2],
                "ddim",
            )
    assert in_short(sampling(tmp_path / "elsewhere" / "copied")) == (30, 1.5, [0.0, 1.0], None)
    assert DiffusionSamplingSpec().num_inference_steps == 30
    (tmp_path / "run" / "config.yaml").write_text("sampling: 3\n")
    with pytest.raises(InputError, match=r"config.yaml: sampling: must be a mapping of keys \(guidance_.*\); got 3$"):
        sampling(tmp_path / "run")


# drawing


def test_sampling_is_the_pipelines_call(run):
    parsed = sampling(
        run,
        "--sampling.num_inference_steps=3",
        "--sampling.guidance_scale=2",
        "--sampling.guidance_interval=[0.2,0.8]",
        "--seed=5",
        "--size=6x4",
        "--region=-1,-1,0,0",
    )
    pipeline = parsed.load_pipeline(run)
    images = parsed.images(pipeline, [2, 9], [0, 1])
    assert images.shape == (2, 1, 6, 4) and images.dtype == torch.uint8
    direct = pipeline(
        [0, 1], guidance_scale=2.0, guidance_interval=(0.2, 0.8), num_inference_steps=3, height=6, width=4, region=(-1, -1, 0, 0),
        generator=image_generators(5, [2, 9]), output_type="uint8",
    ).images  # fmt: skip
    assert torch.equal(images, direct)
    assert parsed.images(pipeline, [0, 1, 2], None).shape == (3, 1, 6, 4)
    assert parsed.record(pipeline) == {
        "scheduler": "dpm_solver", "num_inference_steps": 3, "guidance_scale": 2.0, "guidance_interval": [0.2, 0.8],
        "seed": 5, "size": (6, 4), "region": (-1, -1, 0, 0),
    }  # fmt: skip


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    """A pipeline over clouds, trained on three sets of 6 tokens for each one of 10, of 12 at most."""
    shape = {"num_tokens": 12, "latent_dim": 8}
    autoencoder = tiny_autoencoder(encoder={"type": "fit"}, decoder={"type": "anchored"}, **shape)
    scheduler = make_scheduler("dpm_solver", NoiseLevels(NoiseSpec(), (12, 8)))
    normalizer = LatentNormalizer.from_statistics(torch.zeros(1, 8), torch.ones(1, 8))
    parts = (autoencoder, woken(position_dim=2, **shape), normalizer, scheduler)
    folder = tmp_path_factory.mktemp("clouds")
    LatentDiffusionPipeline(*parts, token_counts={6: 30, 10: 10}).save_pretrained(folder)
    return folder


def test_the_number_of_tokens_is_asked_for(clouds):
    pipeline = load_pipeline(clouds)
    labels, steps = [0, 1, 2], "--sampling.num_inference_steps=2"
    by_default, seven, twelve = (
        sampling(clouds, steps, *more) for more in ((), ("--num-tokens=7",), ("--num-tokens=12",))
    )
    rendered = [parsed.images(pipeline, range(3), labels, "kept") for parsed in (by_default, seven, twelve)]
    direct = pipeline(
        labels, generator=image_generators(0, range(3)), num_inference_steps=2, num_tokens=7, output_type="kept"
    )
    assert torch.equal(rendered[1], direct.images)
    assert torch.equal(rendered[0], rendered[2]) and not torch.equal(rendered[0], rendered[1])
    assert seven.record(pipeline)["num_tokens"] == 7 and "num_tokens" not in by_default.record(pipeline)


def test_the_number_of_tokens_is_drawn_from_those_of_the_data(clouds):
    pipeline, parsed = load_pipeline(clouds), sampling(clouds, "--num-tokens=data")
    assert parsed.num_tokens == parsed.record(pipeline)["num_tokens"] == "data"
    sizes = pipeline._token_mask("data", image_generators(0, range(800))).sum(1)
    assert set(sizes.tolist()) == {6, 10}
    assert float((sizes == 6).float().mean()) == pytest.approx(0.75, abs=0.05)  # standard deviation 0.015
    alone = pipeline._token_mask("data", image_generators(0, [5, 799])).sum(1)  # of the seed and the index alone
    assert torch.equal(alone, sizes[[5, 799]])
    images = parsed.images(pipeline, [3, 4], [0, 1], "kept")
    torch.testing.assert_close(parsed.images(pipeline, [4], [1], "kept"), images[1:], atol=1, rtol=0)


def test_numbers_of_tokens_that_are_not_possible_are_refused(clouds, run, gan, pipeline, capsys):
    for text in ("0", "all", "2.5"):
        with pytest.raises(SystemExit):
            sampling(clouds, f"--num-tokens={text}")
        assert f"argument --num-tokens: must be a positive integer, or data; got '{text}'" in capsys.readouterr().err
    with pytest.raises(InputError, match="num_tokens must be an integer from 1 to 12; got 13"):
        sampling(clouds, "--num-tokens=13").images(load_pipeline(clouds), [0], [0])
    with pytest.raises(InputError, match="num_tokens needs tokens with positions; this model's tokens have slots"):
        sampling(run, "--num-tokens=3").images(load_pipeline(run), [0], [0])
    with pytest.raises(InputError, match="--num-tokens is for diffusion over tokens with positions, and this is a GAN"):
        sampling(gan, "--num-tokens=3")
    unknown = LatentDiffusionPipeline(**load_pipeline(clouds).components)
    with pytest.raises(InputError, match='num_tokens "data" needs the sizes .* was saved without: give a number'):
        unknown(num_images=1, num_tokens="data")


def test_the_requested_scheduler_is_used(run):
    euler = sampling(run, "--sampling.num_inference_steps=2", "--sampling.scheduler=euler")
    pipeline = euler.load_pipeline(run)
    assert scheduler_name(pipeline.scheduler) == euler.record(pipeline)["scheduler"] == "euler"
    assert euler.images(pipeline, [0], [0]).shape == (1, 1, 8, 8)


def test_a_scheduler_that_was_swapped_and_saved_stays(pipeline, tmp_path):
    """It is a component of the pipeline, which neither a setting nor the spec's default overrides."""
    from diffusers import UniPCMultistepScheduler

    swapped = LatentDiffusionPipeline(**pipeline.components, sampling=OWN)
    swapped.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    swapped.save_pretrained(tmp_path)
    loaded = sampling(tmp_path).load_pipeline(tmp_path)
    assert type(loaded.scheduler) is UniPCMultistepScheduler
    assert sampling(tmp_path).record(loaded)["scheduler"] == "UniPCMultistepScheduler"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--region=0,0,0,1", r"region must have every start below its end, .*; got \(0.0, 0.0, 0.0, 1.0\)"),
        ("--region=0,0,nan,1", r"region must be 4 finite numbers"),
        ("--sampling.num_inference_steps=1001", "num_inference_steps must be an integer from 1 to 1000; got 1001"),
    ],
)
def test_options_that_only_the_pipeline_can_check(run, option, message):
    parsed = sampling(run, option)
    with pytest.raises(InputError, match=message):
        parsed.images(parsed.load_pipeline(run), [0], [0])


# a guide


@pytest.fixture(scope="module")
def guides(pipeline, tmp_path_factory):
    """Folders of two runs with smaller denoisers of the same latents, `a` and `b`."""
    folder = tmp_path_factory.mktemp("guides")
    for name in ("a", "b"):
        smaller = woken(dim=8, depth=1)
        LatentDiffusionPipeline(**{**pipeline.components, "denoiser": smaller}).save_pretrained(
            folder / name / "pipeline"
        )
    return folder


def test_a_guide_is_asked_for(run, guides):
    plain, guided = sampling(run), sampling(run, f"--guide={guides / 'a'}")
    assert plain.guide is None and plain.load_pipeline(run).guide is None
    pipeline = guided.load_pipeline(run)
    assert pipeline.denoiser.config["dim"] == 16 and pipeline.guide.config["dim"] == 8
    images = guided.images(pipeline, [0, 1], [0, 1], "kept")
    direct = load_pipeline(run)
    direct.guide = load_pipeline(guides / "a").denoiser
    asked = {"generator": image_generators(0, [0, 1]), "output_type": "kept"}
    assert torch.equal(direct([0, 1], **asked).images, images)
    assert not torch.equal(plain.images(plain.load_pipeline(run), [0, 1], [0, 1], "kept"), images)
    swapped = sampling(run, f"--guide={guides / 'a'}", "--sampling.scheduler=heun").load_pipeline(run)
    assert scheduler_name(swapped.scheduler) == "heun" and swapped.guide is not None


def test_images_of_another_guide_are_never_reused(run, guides, tmp_path):
    """The folder of the images is named by a hash of the record, in which a guide is the hash of its files."""

    def record(place=None):
        parsed = sampling(run, *([] if place is None else [f"--guide={place}"]))
        return parsed.record(parsed.load_pipeline(run))

    records = [record(), record(guides / "a"), record(guides / "b")]
    assert "guide" not in records[0], "images that were drawn without a guide stay valid"
    assert len({json.dumps(r, sort_keys=True) for r in records}) == 3
    shutil.copytree(guides / "a" / "pipeline", tmp_path / "copied")
    for place in (guides / "a" / "pipeline", tmp_path / "copied"):
        assert record(place) == records[1]
    trained = load_pipeline(tmp_path / "copied")
    with torch.no_grad():
        trained.denoiser.head.bias += 1
    trained.save_pretrained(tmp_path / "copied")
    assert record(tmp_path / "copied") != records[1]


def test_guides_that_cannot_guide_are_refused(run, gan, guides, tmp_path):
    with pytest.raises(InputError, match="^--guide is for diffusion, and this is a GAN: leave it out$"):
        sampling(gan, f"--guide={guides / 'a'}")
    for place, message in (
        (tmp_path / "nowhere", "nowhere: no pipeline here"),
        (gan, "has a GANPipeline; a guide is the denoiser of a LatentDiffusionPipeline, from train/diffusion.py$"),
    ):
        with pytest.raises(InputError, match=message):
            sampling(run, f"--guide={place}").load_pipeline(run)
