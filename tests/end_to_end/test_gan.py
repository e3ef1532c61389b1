"""train/gan.py with both targets: training, resuming, several processes, sampling, evaluation, mistakes."""

import functools
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import genrep.training.targets
from genrep import GANPipeline, LatentDiffusionPipeline
from genrep.data import ImageDataSpec
from genrep.data.images import ImageData
from genrep.models.discriminator import Discriminators
from genrep.randomness import image_generators
from genrep.training.folders import run_config
from genrep.training.specs import GANRun
from tests.scripts import PROJECT, launch, lines, run

SMALL = [
    "--generator.widths", "[16, 16, 16, 16]", "--discriminator.width", 8, "--run.batch", 16,
    "--run.report_every", 1,
]  # fmt: skip
IMAGES = ["configs/digits/gan.yaml", *SMALL]


def latents(stage1, folder) -> list:
    return ["configs/digits/gan_latents.yaml", *SMALL, "--autoencoder", stage1, "--latents.folder", folder / "latents"]


@pytest.fixture(scope="module")
def trained(stage1, tmp_path_factory):
    """A GAN of images and one of latents, trained for three steps."""
    folder = tmp_path_factory.mktemp("gan")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run("train/gan.py", *IMAGES, "--run.steps", 3, "--run.folder", folder / "images")
        run("train/gan.py", *latents(stage1, folder), "--run.steps", 3, "--run.folder", folder / "of_latents")
    return folder


@pytest.mark.parametrize("target", ["images", "of_latents"])
def test_a_gan_is_sampled_and_evaluated_like_a_diffusion_model(trained, classifier, target, tmp_path):
    folder = trained / target
    run(
        "sample/generate.py", folder, "--classes", "0-2", "--per-class", 2, "--size", 24, "--sampling.truncation", 0.7,
        "--out", tmp_path / "g.png",
    )  # fmt: skip
    measure = [
        "--metrics", "fd_classifier,agreement", "--classifier", classifier, "--num-images", 40,
        "--out", tmp_path / "e.json",
    ]  # fmt: skip
    with pytest.warns(UserWarning, match="biased"):
        run("sample/evaluate.py", folder, *measure)
    report = json.loads((tmp_path / "e.json").read_text())
    assert report["sampling"]["truncation"] == 1.0 and 0 <= report["metrics"]["class_agreement"] <= 1
    assert report["metrics"]["fd_floor"] < report["metrics"]["fd_classifier"]
    assert ("fd_reconstruction" in report["metrics"]) == (target == "of_latents")
    assert [path.name for path in (folder / "samples").glob("*.png")] == ["step-00000003.png"]
    last = lines(folder)[-1]
    assert {"loss", "discriminator_loss", "real_above_0", "fake_above_0", "lr"} <= last.keys()


def test_a_gan_of_latents_leaves_the_autoencoder_unchanged(stage1, trained, tmp_path, monkeypatch):
    """Gradients pass through it, but its weights do not change and get no gradient."""
    seen, load = [], genrep.training.targets.load_autoencoder

    def remember(*arguments):
        seen.append(load(*arguments))
        return seen[-1]

    monkeypatch.setattr(genrep.training.targets, "load_autoencoder", remember)
    run("train/gan.py", *latents(stage1, tmp_path), "--run.steps", 1, "--run.folder", tmp_path / "run")
    assert all(not weight.requires_grad and weight.grad is None for weight in seen[0].parameters())
    before = load_file(stage1 / "model" / "diffusion_pytorch_model.safetensors")
    after = GANPipeline.from_pretrained(trained / "of_latents" / "pipeline").autoencoder.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("sees", ["images", "latents", "both"])
def test_every_view_of_the_discriminators_trains_the_generator_of_latents(stage1, tmp_path, sees):
    options = [*latents(stage1, tmp_path), "--gan.sees", sees, "--run.folder", tmp_path / "run", "--ema", "null"]
    run("train/gan.py", *options, "--run.steps", 1)
    first = load_file(tmp_path / "run" / "checkpoints" / "step-00000001" / "model.safetensors")
    run("train/gan.py", *options, "--run.steps", 2)
    second = load_file(tmp_path / "run" / "checkpoints" / "step-00000002" / "model.safetensors")
    assert [name for name in first if torch.equal(first[name], second[name]) and "of_class" not in name] == []
    tensors = load_file(tmp_path / "run" / "checkpoints" / "step-00000002" / "discriminator.safetensors")
    assert {name.split(".")[0] for name in tensors} == {
        "images": {"of_images"},
        "latents": {"of_latents"},
        "both": {"of_images", "of_latents"},
    }[sees]


@pytest.mark.parametrize("target", ["images", "latents"])
def test_a_resumed_gan_equals_a_straight_one_bit_for_bit(stage1, tmp_path, target):
    config = IMAGES if target == "images" else latents(stage1, tmp_path)
    for name, steps in (("straight", 6), ("resumed", 3), ("resumed", 6)):
        run("train/gan.py", *config, "--run.steps", steps, "--run.folder", tmp_path / name)
    for part in ("model", "average", "discriminator"):
        one, two = (
            load_file(tmp_path / name / "checkpoints" / "step-00000006" / f"{part}.safetensors")
            for name in ("straight", "resumed")
        )
        assert [key for key in one if not torch.equal(one[key], two[key])] == []
    kept = [[row for row in lines(tmp_path / name) if row["step"] > 3] for name in ("straight", "resumed")]
    assert kept[0] == kept[1]


def test_two_processes_train_like_one(tmp_path):
    for folder, start in ((tmp_path / "one", run), (tmp_path / "two", lambda *a: launch(2, *a))):
        start("train/gan.py", *IMAGES, "--run.steps", 3, "--run.folder", folder)
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, abs=2e-3, rel=2e-3)


@pytest.mark.parametrize(
    "change",
    [
        ["--gan.augment", "[translation]"],
        ["--gan.r1", 0],
        ["--ema", "null"],
        ["--gan.conditional", "false"],
        ["--gan.discriminator_lr", "null"],
    ],
    ids=lambda change: change[0],
)
def test_every_key_of_the_objective_changes_the_run(trained, tmp_path, change):
    run("train/gan.py", *IMAGES, *change, "--run.steps", 3, "--run.folder", tmp_path)
    one, two = (
        load_file(folder / "pipeline" / "generator_model" / "diffusion_pytorch_model.safetensors")
        for folder in (trained / "images", tmp_path)
    )
    assert one.keys() != two.keys() or any(not torch.equal(one[name], two[name]) for name in one)


def test_an_unconditional_gan_of_labelled_images_samples_no_classes(tmp_path):
    run("train/gan.py", *IMAGES, "--gan.conditional", "false", "--run.steps", 1, "--run.folder", tmp_path / "run")
    run("sample/generate.py", tmp_path / "run", "--out", tmp_path / "g.png")
    assert (tmp_path / "g.png").exists()


@pytest.mark.slow
def test_a_compiled_gan_takes_its_penalty_from_the_plain_discriminator(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    run("train/gan.py", *IMAGES, "--run.compile", "true", "--run.steps", 1, "--run.folder", tmp_path)
    assert GANPipeline.from_pretrained(tmp_path / "pipeline")


def test_muon_leaves_weights_of_spectral_norm_to_adamw(stage1, tmp_path):
    muon = ["--optimizer.type", "muon", "--optimizer.betas", "[0.9, 0.99]"]
    run("train/gan.py", *latents(stage1, tmp_path), *muon, "--run.steps", 2, "--run.folder", tmp_path / "run")
    assert (tmp_path / "run" / "pipeline").is_dir()


def test_two_processes_train_a_gan_of_latents_like_one(stage1, tmp_path):
    for name, start in (("one", run), ("two", lambda *a: launch(2, *a))):
        start("train/gan.py", *latents(stage1, tmp_path), "--run.steps", 2, "--run.folder", tmp_path / name)
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, abs=5e-3, rel=5e-3)


@pytest.mark.slow
def test_in_float64_two_processes_match_one(stage1, tmp_path):
    """In float32 they diverge after a few steps: a GAN amplifies rounding. In float64 there is hardly any."""
    for count in (1, 2):
        own = [
            "--run.steps", 12, "--run.folder", tmp_path / str(count),
            "--latents.folder", tmp_path / f"latents{count}",
        ]  # fmt: skip
        output = launch(count, "tests/double.py", "train/gan.py", *latents(stage1, tmp_path), *own)
        assert "Grad strides" not in output
    for one, two in zip(lines(tmp_path / "1"), lines(tmp_path / "2"), strict=True):
        assert one == pytest.approx(two, rel=1e-7, abs=1e-7)
    assert one["gradient_norm"] == pytest.approx(two["gradient_norm"], rel=1e-11)


def test_real_images_can_be_the_originals(stage1, tmp_path):
    rows = {}
    for real in ("images", "reconstructions"):
        options = [*latents(stage1, tmp_path), "--gan.real", real, "--run.folder", tmp_path / real]
        run("train/gan.py", *options, "--run.steps", 1)
        rows[real] = lines(tmp_path / real)[-1]["discriminator_loss"]
    assert rows["images"] != rows["reconstructions"]


def test_a_gan_of_latents_trains_on_the_cache_alone(stage1, tmp_path, capsys):
    source = tmp_path / "digits.parquet"
    ImageData(ImageDataSpec(), "train", (8, 8), 1).rows.to_parquet(source)
    options = [*latents(stage1, tmp_path), "--data.source", source, "--run.steps", 2]
    for name in ("there", "alone"):
        for sees in ("both", "latents"):
            run("train/gan.py", *options, "--gan.sees", sees, "--run.folder", tmp_path / f"{name}-{sees}")
        source.unlink(missing_ok=True)
    for sees in ("both", "latents"):
        one, two = (
            load_file(tmp_path / f"{name}-{sees}" / "checkpoints" / "step-00000002" / "model.safetensors")
            for name in ("there", "alone")
        )
        assert [key for key in one if not torch.equal(one[key], two[key])] == []
        assert lines(tmp_path / f"there-{sees}") == lines(tmp_path / f"alone-{sees}")
    run("train/gan.py", *options, "--gan.real", "images", "--run.folder", tmp_path / "pixels", expect=2)
    assert "this run also needs the signals" in capsys.readouterr().err


def test_a_gan_needs_no_held_out_split(tmp_path):
    run("train/gan.py", *IMAGES, "--data.held_out_fraction", 0, "--run.steps", 1, "--run.folder", tmp_path / "run")
    assert (tmp_path / "run" / "pipeline").is_dir()


def test_the_ce_baseline_trains(tmp_path):
    ce = ["--generator.tile", 1, "--generator.embedding_dim", 4, "--generator.embedding_size", 8]
    run("train/gan.py", *IMAGES, *ce, "--run.steps", 2, "--run.folder", tmp_path)
    assert GANPipeline.from_pretrained(tmp_path / "pipeline").generator_model.embedding.grid.shape == (4, 8, 8)


def test_mistakes_in_gan_configs_are_refused(trained, stage1, tmp_path, capsys):
    for options, message in (
        (["--image_size", "null"], "gan.target images needs image_size and channels, and takes no autoencoder"),
        (["--gan.target", "latents"], "gan.target latents needs autoencoder"),
        (["--gan.sees", "both"], "gan.sees both needs gan.target latents"),
        (["--run.accumulation", 2], "run.accumulation must be 1 for a GAN"),
        (["--generator.tile", "[2]"], "tile must have one number per width after the first, 3; got 1"),
        (["--gan.augment", "[colour]"], "gan.augment"),
    ):
        run("train/gan.py", *IMAGES, *options, "--run.steps", 1, "--run.folder", tmp_path / "none", expect=2)
        assert message in capsys.readouterr().err
    seen = [
        *latents(stage1, tmp_path), "--gan.sees", "latents", "--gan.augment", "[cutout]",
        "--run.folder", tmp_path / "none",
    ]  # fmt: skip
    run("train/gan.py", *seen, expect=2)
    assert "gan.augment applies to images, and with gan.sees latents there are none" in capsys.readouterr().err
    run("sample/generate.py", trained / "images", "--sampling.num_inference_steps", 5, expect=2)
    assert "sampling.num_inference_steps: unknown key; allowed here: truncation" in capsys.readouterr().err
    run("sample/generate.py", trained / "images", "--sampling.truncation", -1, expect=2)
    assert "sampling.truncation: must be greater than or equal to 0; got -1" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("config", ["gan", "gan_latents"])
def test_the_dry_run_prints_sizes(config, capsys, tmp_path):
    run("train/gan.py", f"configs/digits/{config}.yaml", "--dry-run", "--run.folder", tmp_path / "none")
    output = capsys.readouterr().out
    assert "generator: " in output and "discriminators: " in output and not (tmp_path / "none").exists()


def test_interpolation_starts_and_ends_at_the_seeds_samples(trained, stage2, tmp_path, capsys):
    shared = ["--seed", 3, "--sampling.truncation", 0.6]
    options = ["--rows", 2, "--steps", 3, "--classes", "1,4", "--size", 8, "--out", tmp_path / "walk.png"]
    run("sample/interpolate.py", trained / "images", *options, *shared)
    run("sample/generate.py", trained / "images", "--classes", "1,1,4,4", "--per-class", 1, "--images", tmp_path / "all", *shared,
        "--out", tmp_path / "g.png")  # fmt: skip
    with Image.open(tmp_path / "walk.png") as walk:
        assert walk.size == (3 * 8 + 4 * 2, 2 * 8 + 3 * 2)
        for number, place in enumerate([(2, 2), (22, 2), (2, 12), (22, 12)]):
            (sample,) = (tmp_path / "all").glob(f"{number:06d}-*.png")
            tile = np.asarray(walk.crop((*place, place[0] + 8, place[1] + 8)), dtype=int)
            assert np.abs(tile - np.asarray(Image.open(sample), dtype=int)).max() <= 1
    run("sample/interpolate.py", stage2, expect=2)
    assert "has a LatentDiffusionPipeline; this script needs a GANPipeline" in capsys.readouterr().err


def test_the_pattern_report(trained, stage2, tmp_path, capsys):
    for number, folder in enumerate((trained / "images", stage2)):
        out = tmp_path / f"{number}.png"
        run("sample/pattern.py", folder, "--num-images", 20, "--out", out)
        report = json.loads(out.with_suffix(".json").read_text())
        assert report["num_images"] == 20 and report["detail_of_real"] > 0 and report["deviation_of_real"] > 0
        details = report["detail_of_samples"], report["detail_of_real"]  # the triangle's inequality
        assert max(details) - min(details) <= report["pattern"] + 1e-4 and report["pattern"] <= sum(details) + 1e-4
        assert report["chance"] > 0
        with Image.open(out) as picture:
            assert picture.size == (4 * 96 + 5 * 2, 96 + 2 * 2)
    run("sample/pattern.py", trained / "images" / "pipeline", expect=2)
    assert "no config.yaml there to name the data set; give a run folder\n" in capsys.readouterr().err


def mean_logits(pipeline, gan_folder, seed, count) -> float:
    """The mean logit of a GAN's discriminators for a diffusion model's samples, step by step."""
    latents = pipeline(
        class_labels=[index % 10 for index in range(count)], generator=image_generators(seed, range(count)),
        num_inference_steps=4, output_type="latent",
    ).images  # fmt: skip
    discriminators = Discriminators(
        1, tuple(latents.shape[1:]), 10, **run_config(gan_folder, GANRun).discriminator.model_dump()
    )
    weights = load_file(gan_folder / "checkpoints" / "step-00000003" / "discriminator.safetensors")
    discriminators.load_state_dict(weights)
    discriminators.eval()
    with torch.no_grad():
        standardised = (latents - pipeline.normalizer.mean) / pipeline.normalizer.std
        views = [pipeline.autoencoder.render(latents), standardised]
        logits = discriminators(views, torch.arange(count) % 10)
    return sum(float(part.mean()) for part in logits) / len(logits)


def test_the_discriminators_refine_a_diffusion_models_latents(trained, stage2, classifier, tmp_path, capsys):
    measured = ["--classifier", classifier, "--num-images", 20, "--sampling.num_inference_steps", 4]
    refine = ["benchmarks/discriminator.py", stage2, *measured, "--gan", trained / "of_latents"]

    def rows(*options) -> list[dict[str, float]]:
        run(*refine, *options)
        lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("step size")]
        return [dict(zip(words[3::2], map(float, words[4::2]), strict=True)) for words in lines]

    start, small, large = rows("--steps", 5, "--step-size", 0.05, 0.1)
    pipeline = LatentDiffusionPipeline.from_pretrained(stage2 / "pipeline")
    assert start["logit"] == pytest.approx(mean_logits(pipeline, trained / "of_latents", 0, 20), rel=2e-3)
    assert start["logit"] < small["logit"] < large["logit"]
    # five steps lead at most as far as one five times as long
    assert start["moved"] == 0 and 0.05 < small["moved"] <= 0.25 and 0.1 < large["moved"] <= 0.5
    assert rows("--steps", 1, "--step-size", 0.05)[1]["moved"] == pytest.approx(0.05, rel=1e-3)
    assert 0 <= small["class_agreement"] <= 1 and 0 <= small["classifier_recall"] <= 1
    # the unrefined samples are those of sample/evaluate.py
    with pytest.warns(UserWarning, match="biased"):
        run(
            "sample/evaluate.py", stage2, *measured, "--metrics", "fd_classifier,agreement,prc_classifier",
            "--no-floors", "--out", tmp_path / "e.json",
        )  # fmt: skip
    metrics = json.loads((tmp_path / "e.json").read_text())["metrics"]
    assert all(start[name] == pytest.approx(metrics[name], rel=1e-3) for name in start if name in metrics)
    assert {"fd_classifier", "class_agreement", "classifier_precision", "classifier_recall"} <= start.keys()


def test_mistakes_about_the_gan_that_refines(trained, stage2, locality, classifier, tmp_path, capsys):
    config = ["configs/digits/gan_latents.yaml", *SMALL, "--latents.folder", tmp_path / "latents"]
    run("train/gan.py", *config, "--autoencoder", locality, "--run.steps", 1, "--run.folder", tmp_path / "other")
    shutil.copytree(trained / "of_latents", tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "checkpoints")
    refine = ["benchmarks/discriminator.py", stage2, "--classifier", classifier, "--num-images", 4]
    for options, message in [
        (["--gan", trained / "images"], "needs a GAN of latents (gan.target latents), and this is one of signals"),
        (["--gan", tmp_path / "other"], "it was trained on the latents of another stage 1 than the diffusion model"),
        (["--gan", tmp_path / "bare"], "no checkpoint there, and only checkpoints hold the discriminators"),
        (["--gan", trained / "of_latents", "--dtype", "bf16"], "--dtype bf16: the discriminators compute in fp32"),
        (["--gan", trained / "of_latents", "--classifier", tmp_path], f"--classifier '{tmp_path}': no model there"),
    ]:
        run(*refine, *options, expect=2)
        assert message in capsys.readouterr().err
