"""Shipped configs, trained for a few steps: all stages, resumed runs, several processes."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import genrep.training.run
from genrep import INRAutoencoder, LatentDiffusionPipeline
from genrep.data import ImageDataSpec
from genrep.data.images import ImageData
from genrep.models.classifier import ImageClassifier
from genrep.render import from_uint8
from tests.scripts import AUTOENCODER, PROJECT, diffusion, launch, lines, run


class Killed(Exception):
    pass


def die_after_first_save(monkeypatch):
    save = genrep.training.run.Run.save

    def save_and_die(self, state):
        save(self, state)
        raise Killed

    monkeypatch.setattr(genrep.training.run.Run, "save", save_and_die)


def straight_and_resumed(script, arguments, tmp_path, monkeypatch):
    """The same run in two folders: without a break, and killed after its first checkpoint and started again."""
    folders = tmp_path / "straight", tmp_path / "resumed"
    run(script, *arguments(folders[0]))
    with monkeypatch.context() as patch:
        die_after_first_save(patch)
        with pytest.raises(Killed):
            run(script, *arguments(folders[1]))
    assert not list(folders[1].rglob("config.json")), "no model yet"
    run(script, *arguments(folders[1]))
    return folders


def weights(folder):
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def assert_same_weights(one, two):
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_resumed_stage_1_equals_a_straight_run_bit_for_bit(tmp_path, monkeypatch, optimizer):
    def arguments(folder):
        return [
            *AUTOENCODER, "--optimizer.type", optimizer, "--run.steps", 6, "--run.save_every", 3,
            "--run.folder", folder, "--data.flip", "true",
        ]  # fmt: skip

    straight, resumed = straight_and_resumed("train/autoencoder.py", arguments, tmp_path, monkeypatch)
    assert_same_weights(straight / "model", resumed / "model")
    assert lines(straight) == lines(resumed)
    assert len(lines(straight)) == 7  # six reports and an evaluation


@pytest.mark.parametrize("options", [(), ("--denoiser.depth", 3, "--denoiser.routed", 0.5)])
def test_resumed_stage_2_equals_a_straight_run_bit_for_bit(stage1, tmp_path, monkeypatch, options):
    def arguments(folder):
        return [*diffusion(stage1, folder), *options, "--run.steps", 6, "--run.save_every", 3]

    straight_and_resumed("train/diffusion.py", arguments, tmp_path, monkeypatch)
    pipelines = [tmp_path / name / "diffusion" / "pipeline" / "denoiser" for name in ("straight", "resumed")]
    assert_same_weights(*pipelines)
    assert lines(tmp_path / "straight" / "diffusion") == lines(tmp_path / "resumed" / "diffusion")


def other_classifier(folder):
    """A classifier trained for a step."""
    run(
        "train/classifier.py", "configs/digits/classifier.yaml", "--run.steps", 1, "--classifier.width", 8,
        "--run.folder", folder,
    )  # fmt: skip
    return folder


def test_stage_1_with_a_perceptual_term_resumes_bit_for_bit_and_reports_it(classifier, tmp_path, monkeypatch, capsys):
    def arguments(folder, weight=0.5):
        return [
            *AUTOENCODER, "--perceptual.classifier", classifier, "--perceptual.window", 5, "--perceptual.weight", weight,
            "--run.steps", 6, "--run.save_every", 3, "--run.folder", folder,
        ]  # fmt: skip

    straight, resumed = straight_and_resumed("train/autoencoder.py", arguments, tmp_path, monkeypatch)
    assert_same_weights(straight / "model", resumed / "model")
    assert lines(straight) == lines(resumed)
    run("train/autoencoder.py", *AUTOENCODER, "--run.steps", 1, "--run.folder", tmp_path / "plain")
    first, plain = lines(straight)[0], lines(tmp_path / "plain")[0]
    assert first["perceptual"] > 0.01 and "perceptual" not in plain
    assert first["loss"] == pytest.approx(plain["loss"] + 0.5 * first["perceptual"], rel=1e-5)
    # another classifier in the same place is another run
    (straight / "checkpoints" / "step-00000006").rename(tmp_path / "gone")
    other = other_classifier(tmp_path / "other")
    run("train/autoencoder.py", *arguments(straight), "--perceptual.classifier", other, expect=2)
    assert "the perceptual.classifier differs from what this run was trained on" in capsys.readouterr().err


@pytest.mark.parametrize("options", [(), ("--denoiser.depth", 3, "--denoiser.routed", 0.5, "--latents.flips", "true")])
def test_stage_2_with_alignment_resumes_bit_for_bit(stage1, classifier, tmp_path, monkeypatch, capsys, options):
    def arguments(folder):
        return [
            *diffusion(stage1, folder), *options, "--diffusion.alignment.classifier", classifier,
            "--diffusion.alignment.block", 1, "--run.steps", 6, "--run.save_every", 3,
        ]  # fmt: skip

    straight_and_resumed("train/diffusion.py", arguments, tmp_path, monkeypatch)
    pipelines = [tmp_path / name / "diffusion" / "pipeline" / "denoiser" for name in ("straight", "resumed")]
    assert_same_weights(*pipelines)
    aligned = lines(tmp_path / "straight" / "diffusion")
    assert aligned == lines(tmp_path / "resumed" / "diffusion")
    run("train/diffusion.py", *diffusion(stage1, tmp_path), *options, "--run.steps", 6)
    plain = lines(tmp_path / "diffusion")
    # of the same initial weights and noise: the first losses differ by the term, -weight to weight, the held-out ones little
    assert 0 < abs(aligned[0]["loss"] - plain[0]["loss"]) < 0.5
    assert aligned[-1]["held_out_loss"] == pytest.approx(plain[-1]["held_out_loss"], rel=0.01)
    third, sixth = (
        load_file(path / "model.safetensors")
        for path in sorted((tmp_path / "straight" / "diffusion" / "checkpoints").iterdir())
    )
    frozen = [name for name in third if torch.equal(third[name], sixth[name]) and name.startswith("to_")]
    assert "to_places.weight" in third and frozen == [], "the projection is trained"
    saved = LatentDiffusionPipeline.from_pretrained(tmp_path / "straight" / "diffusion" / "pipeline")
    assert not [name for name in saved.denoiser.state_dict() if name.startswith("to_")], "training alone needs those"
    # another classifier in the same place is another run
    shutil.rmtree(tmp_path / "straight" / "diffusion" / "checkpoints" / "step-00000006")
    command = [
        *arguments(tmp_path / "straight"),
        "--diffusion.alignment.classifier",
        other_classifier(tmp_path / "other"),
    ]
    run("train/diffusion.py", *command, expect=2)
    assert "the diffusion.alignment.classifier differs from what this run was trained on" in capsys.readouterr().err


def test_two_processes_align_and_compare_windows_as_one_does(stage1, classifier, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, start in ((one, run), (two, lambda *a: launch(2, *a))):
        start(
            "train/autoencoder.py", *AUTOENCODER, "--perceptual.classifier", classifier, "--perceptual.window", 5,
            "--run.steps", 2, "--run.folder", folder / "anr",
        )  # fmt: skip
        start(
            "train/diffusion.py", *diffusion(stage1, folder), "--diffusion.alignment.classifier", classifier,
            "--diffusion.alignment.block", 1, "--run.steps", 2,
        )  # fmt: skip
    for stage in ("anr", "diffusion"):
        for first, second in zip(lines(one / stage), lines(two / stage), strict=True):
            assert first == pytest.approx(second, abs=1e-5, rel=1e-5), stage


def test_stage_2_leaves_the_autoencoder_unchanged(stage1, stage2):
    before = weights(stage1 / "model")
    after = LatentDiffusionPipeline.from_pretrained(stage2 / "pipeline").autoencoder.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert before.keys() == after.keys()


def test_accumulation_does_not_change_the_result(tmp_path):
    for name, parts in (("whole", 1), ("parts", 4)):
        run(
            "train/autoencoder.py", *AUTOENCODER, "--run.steps", 4, "--run.accumulation", parts,
            "--run.folder", tmp_path / name,
        )  # fmt: skip
    for one, two in zip(lines(tmp_path / "whole"), lines(tmp_path / "parts"), strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-5)


def test_two_processes_train_and_generate_what_one_does(tmp_path, stage1):
    """With the same global batch, losses agree to 1e-5; a pipeline generates the same images on one process or two."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, start in ((one, run), (two, lambda *a: launch(2, *a))):
        start("train/autoencoder.py", *AUTOENCODER, "--run.steps", 3, "--run.folder", folder / "anr")
        start("train/diffusion.py", *diffusion(stage1, folder), "--run.steps", 3)
    for stage in ("anr", "diffusion"):
        rows = zip(lines(one / stage), lines(two / stage), strict=True)
        for first, second in rows:
            assert first == pytest.approx(second, abs=1e-5, rel=1e-5), stage
    images = {}
    shutil.copytree(one / "diffusion", tmp_path / "copy")
    for place, start in ((one / "diffusion", run), (tmp_path / "copy", lambda *a: launch(2, *a))):
        # 260 images make two chunks, one per process. Agreement needs only a classifier; IS would need Inception's weights.
        start("sample/generate.py", place, "--per-class", 2, "--out", place / "grid.png")
        classifier_folder = tmp_path / "classifier"
        if not classifier_folder.exists():
            run(
                "train/classifier.py", "configs/digits/classifier.yaml", "--run.steps", 1,
                "--classifier.width", 8, "--run.folder", classifier_folder,
            )  # fmt: skip
        start(
            "sample/evaluate.py", place, "--metrics", "agreement", "--classifier", classifier_folder,
            "--num-images", 260,
        )  # fmt: skip
        chunks = sorted((place / "evaluation").glob("*/images-*.safetensors"))
        images[place] = torch.cat([load_file(path)["images"] for path in chunks])
        assert [len(load_file(path)["images"]) for path in chunks] == [250, 10]
    first, second = images.values()
    assert (first.int() - second.int()).abs().max() <= 1
    assert (first != second).float().mean() < 0.01
    assert (one / "diffusion" / "grid.png").read_bytes() == (tmp_path / "copy" / "grid.png").read_bytes()


def test_the_run_folder_has_the_documented_files(stage1, stage2):
    for folder, saved in ((stage1, "model"), (stage2, "pipeline")):
        assert (folder / "config.yaml").exists() and (folder / saved).is_dir()
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000002"]
        assert [path.name for path in (folder / "samples").glob("*.png")] == ["step-00000002.png"]
        assert all({"step", "images"} <= row.keys() for row in lines(folder))
    autoencoder = INRAutoencoder.from_pretrained(stage1 / "model")
    assert autoencoder.latent_shape == (8, 16)


def test_encoding_on_the_fly_works_without_a_cache(stage1, tmp_path):
    run(
        "train/diffusion.py", *diffusion(stage1, tmp_path), "--latents.folder", "null",
        "--latents.flips", "true", "--run.steps", 2,
    )  # fmt: skip
    assert not (tmp_path / "latents").exists()
    assert (tmp_path / "diffusion" / "pipeline" / "model_index.json").exists()


def test_a_classifier_on_whitened_patches_measures_them_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    def arguments(folder):
        return [
            "configs/digits/classifier.yaml", "--classifier.blocks", "pooled",
            "--classifier.norm", "batch", "--classifier.width", 8, "--optimizer.type", "muon", "--ema", "null",
            "--run.steps", 6, "--run.save_every", 3, "--run.folder", folder,
        ]  # fmt: skip

    straight, resumed = straight_and_resumed("train/classifier.py", arguments, tmp_path, monkeypatch)
    assert_same_weights(straight / "model", resumed / "model")
    trained = ImageClassifier.from_pretrained(straight / "model")
    data = ImageDataSpec(held_out_fraction=0.2).open("train", (8, 8), 1)  # fewer than are measured at most
    fresh = ImageClassifier(8, 1, 10, width=8, stages=2, norm="batch", blocks="pooled")
    assert not torch.allclose(trained.stem.convolution.weight, fresh.stem.convolution.weight)
    fresh.measure_patches([from_uint8(data.read(range(len(data))))])
    torch.testing.assert_close(trained.stem.convolution.weight, fresh.stem.convolution.weight)


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion", "classifier"])
def test_bf16_and_worker_processes_train(stage, stage1, tmp_path):
    arguments = {
        "autoencoder": [*AUTOENCODER, "--run.folder", tmp_path / "run"],
        "diffusion": [*diffusion(stage1, tmp_path), "--run.folder", tmp_path / "run"],
        "classifier": ["configs/digits/classifier.yaml", "--classifier.width", 8, "--run.folder", tmp_path / "run"],
    }[stage]
    run(f"train/{stage}.py", *arguments, "--run.steps", 2, "--run.precision", "bf16", "--data.num_workers", 1)
    assert lines(tmp_path / "run")[-1]["step"] == 2


def test_a_run_that_diverges_stops_and_says_so(tmp_path, capsys):
    run(
        "train/autoencoder.py", *AUTOENCODER, "--optimizer.lr", "1e30", "--run.steps", 9,
        "--run.folder", tmp_path, expect=2,
    )  # fmt: skip
    output = capsys.readouterr().err
    assert "the run has diverged" in output and "is not finite" in output


def test_the_average_is_what_is_saved(tmp_path):
    """With a decay close to 1 the average lags behind the weights, and the saved model is the average."""
    run("train/autoencoder.py", *AUTOENCODER, "--run.steps", 3, "--run.folder", tmp_path)
    saved = weights(tmp_path / "model")
    checkpoint = tmp_path / "checkpoints" / "step-00000003"
    average, raw = (load_file(checkpoint / f"{name}.safetensors") for name in ("average", "model"))
    assert all(torch.equal(saved[name], average[name]) for name in saved)
    assert not all(torch.equal(saved[name], raw[name]) for name in saved)


def test_the_two_term_loss_trains(stage1, tmp_path):
    extra = [
        "--diffusion.loss", "two_term", "--diffusion.image_coords", 20, "--denoiser.conditioning", "token",
        "--latents.flips", "true",
    ]  # fmt: skip
    run("train/diffusion.py", *diffusion(stage1, tmp_path), *extra, "--run.steps", 2, "--ema", "null")
    assert all(row["loss"] > 0 for row in lines(tmp_path / "diffusion") if "loss" in row)


def test_random_target_sizes_and_coordinates_of_the_paper_train(tmp_path):
    folder = tmp_path / "sizes"
    run(
        "train/autoencoder.py", *AUTOENCODER, "--data.source_size", 12, "--reconstruction.num_coords", 30,
        "--run.steps", 2, "--run.folder", folder,
    )  # fmt: skip
    paper = ["--reconstruction.coords", "gaussian", "--reconstruction.targets", "pixel", "--run.tracker", "tensorboard"]
    run("train/autoencoder.py", *AUTOENCODER, *paper, "--run.steps", 2, "--run.folder", tmp_path / "paper")
    assert list((tmp_path / "paper").rglob("events.out.tfevents*")), "the tracker wrote nothing"


def test_the_cache_is_written_once_and_tied_to_its_autoencoder(stage1, tmp_path, capsys):
    arguments = diffusion(stage1, tmp_path)
    run("train/latents.py", *arguments)
    before = (tmp_path / "latents" / "manifest.json").stat().st_mtime_ns
    run("train/latents.py", *arguments)
    assert (tmp_path / "latents" / "manifest.json").stat().st_mtime_ns == before
    other = tmp_path / "other"
    run("train/autoencoder.py", *AUTOENCODER, "--run.steps", 1, "--run.seed", 5, "--run.folder", other)
    run("train/diffusion.py", *diffusion(other, tmp_path), "--run.steps", 1, expect=2)
    assert "this cache was made from something else" in capsys.readouterr().err
    run("train/latents.py", *diffusion(other, tmp_path), "--restart")


@pytest.fixture
def movable(tmp_path):
    """Digits in a file that a test may move away."""
    ImageData(ImageDataSpec(), "train", (8, 8), 1).rows.to_parquet(tmp_path / "digits.parquet")
    return tmp_path / "digits.parquet"


def test_stage_2_trains_on_the_cache_alone_bit_for_bit(stage1, movable, tmp_path, capsys):
    def arguments(name):
        return [*diffusion(stage1, tmp_path), "--data.source", movable, "--run.folder", tmp_path / name]

    run("train/latents.py", *arguments("none"))
    assert "(8, 16), float32; 288 held-out images" in " ".join(capsys.readouterr().out.split())
    run("train/diffusion.py", *arguments("there"), "--run.steps", 2)
    assert "training on the latent cache" not in capsys.readouterr().out
    movable.unlink()
    run("train/diffusion.py", *arguments("alone"), "--run.steps", 2)
    assert f"data.source '{movable}' does not exist: training on the latent cache" in capsys.readouterr().out
    assert_same_weights(*(tmp_path / name / "pipeline" / "denoiser" for name in ("there", "alone")))
    assert lines(tmp_path / "there") == lines(tmp_path / "alone") and "held_out_loss" in lines(tmp_path / "alone")[-1]
    labels = [
        LatentDiffusionPipeline.from_pretrained(tmp_path / n / "pipeline").config.id2label for n in ("there", "alone")
    ]
    assert labels[0] == labels[1] and len(labels[0]) == 10
    run("train/diffusion.py", *arguments("there"), "--run.steps", 3)  # a run also resumes without them
    assert lines(tmp_path / "there")[-1]["step"] == 3
    run("sample/generate.py", tmp_path / "alone", "--per-class", 1, "--out", tmp_path / "grid.png")
    capsys.readouterr()
    for script, options, message in (
        ("sample/evaluate.py", [tmp_path / "alone", "--num-images", 2], "measured against the images themselves"),
        (
            "train/diffusion.py",
            [*arguments("pixels"), "--diffusion.loss", "two_term"],
            "this run also needs the signals",
        ),
    ):
        run(script, *options, expect=2)
        output = capsys.readouterr().err
        assert message in output and f"data.source '{movable}' does not exist" in output


def test_settings_that_do_not_affect_learning_may_change(stage1, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(stage1, folder)
    more = ["--run.steps", 3, "--run.folder", folder, "--data.in_memory", "false", "--data.num_workers", 0]
    run("train/autoencoder.py", *AUTOENCODER, *more)
    assert lines(folder)[-1]["step"] == 3


def test_rerunning_a_finished_run_does_nothing(stage1, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(stage1, folder)
    before = lines(folder)
    run("train/autoencoder.py", *AUTOENCODER, "--run.steps", 2, "--run.folder", folder)
    assert lines(folder) == before
    run("train/autoencoder.py", *AUTOENCODER, "--run.steps", 4, "--run.folder", folder)
    assert lines(folder)[-1]["step"] == 4


@pytest.mark.parametrize("script", ["autoencoder", "latents", "diffusion", "classifier"])
def test_dry_run_prints_sizes_and_writes_nothing(script, tmp_path, monkeypatch, capsys):
    config = {"autoencoder": "anr", "latents": "diffusion", "diffusion": "diffusion", "classifier": "classifier"}[
        script
    ]
    run(f"train/{script}.py", f"configs/digits/{config}.yaml", "--run.folder", tmp_path / "run", "--dry-run")
    output = capsys.readouterr().out
    assert "data: digits (held_out): 359 of 1 × 8 × 8, 10 classes" in output
    assert script == "latents" or "parameters" in output
    assert script == "classifier" or "8 tokens of 16" in output
    assert not (tmp_path / "run").exists()


def test_a_run_stops_after_run_seconds_and_saves(tmp_path):
    arguments = [*AUTOENCODER, "--run.folder", tmp_path / "run", "--run.steps", 100_000, "--run.seconds", 0.5]
    run("train/autoencoder.py", *arguments)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    assert 0.5 <= last["seconds"] < 5 and 0 < last["step"] < 100_000
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    assert (tmp_path / "run" / "checkpoints" / f"step-{last['step']:08d}").is_dir()
    assert (tmp_path / "run" / "model" / "config.json").exists() and any("psnr" in row for row in rows)
    run("train/autoencoder.py", *arguments)  # run.seconds are over already
    again = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert again[-1]["step"] == last["step"]


def test_a_run_whose_folder_looks_like_a_date_resumes(tmp_path, monkeypatch):
    """Strings in config.yaml are read back as strings."""
    arguments = [*AUTOENCODER, "--run.folder", "2024-01-01"]
    arguments[0] = PROJECT / str(arguments[0])
    monkeypatch.chdir(tmp_path)
    run("train/autoencoder.py", *arguments, "--run.steps", 1)
    run("train/autoencoder.py", *arguments, "--run.steps", 2)
    assert lines(tmp_path / "2024-01-01")[-1]["step"] == 2
