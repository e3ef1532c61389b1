"""Shipped configs, a few steps each: every script, resumed runs, many processes, errors as a user sees them."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import genrep.training.run
from genrep import INRAutoencoder, LatentDiffusionPipeline
from genrep.data import DataSpec
from genrep.data.images import ImageData, evenly
from genrep.metrics.reconstruction import reconstruction_psnr
from tests.scripts import PROJECT, launch, lines, run

SMALL = ["--autoencoder.encoder.dim", 16, "--autoencoder.encoder.mlp_dim", 16, "--autoencoder.decoder.hidden_dim", 16]
SMALL_DENOISER = ["--denoiser.dim", 16, "--denoiser.depth", 1, "--denoiser.mlp_dim", 16]
AUTOENCODER = [
    "configs/digits/anr.yaml",
    *SMALL,
    "--run.batch",
    16,
    "--run.report_every",
    1,
    "--run.evaluate_images",
    20,
]
DIFFUSION = [
    "configs/digits/diffusion.yaml",
    *SMALL_DENOISER,
    "--run.batch",
    16,
    "--run.report_every",
    1,
    "--run.evaluate_images",
    20,
    "--sampling.steps",
    2,
]


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(PROJECT)


@pytest.fixture(scope="module")
def stage1(tmp_path_factory):
    """An autoencoder trained for two steps."""
    folder = tmp_path_factory.mktemp("stage1") / "anr"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run("train/autoencoder.py", *AUTOENCODER, "--run.steps", 2, "--run.folder", folder)
    return folder


@pytest.fixture(scope="module")
def stage2(stage1, tmp_path_factory):
    """A denoiser trained for two steps."""
    folder = tmp_path_factory.mktemp("stage2")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run("train/diffusion.py", *diffusion(stage1, folder), "--run.steps", 2)
    return folder / "diffusion"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run(
            "train/classifier.py",
            "configs/digits/classifier.yaml",
            "--run.steps",
            60,
            "--classifier.width",
            16,
            "--run.folder",
            folder,
        )
    return folder


def diffusion(stage1, folder):
    return [
        *DIFFUSION,
        "--autoencoder",
        stage1,
        "--latents.folder",
        folder / "latents",
        "--run.folder",
        folder / "diffusion",
    ]


def die_after_first_save(monkeypatch):
    save = genrep.training.run.Run.save

    def save_and_die(self, state):
        save(self, state)
        raise Killed

    monkeypatch.setattr(genrep.training.run.Run, "save", save_and_die)


def weights(folder):
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def assert_same_weights(one, two):
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_stage_1_resumed_equals_straight_bit_for_bit(tmp_path, monkeypatch, optimizer):
    def arguments(folder):
        return [
            *AUTOENCODER,
            "--optimizer.type",
            optimizer,
            "--run.steps",
            6,
            "--run.save_every",
            3,
            "--run.folder",
            folder,
            "--data.flip",
            "true",
        ]

    run("train/autoencoder.py", *arguments(tmp_path / "straight"))
    with monkeypatch.context() as patch:
        die_after_first_save(patch)
        with pytest.raises(Killed):
            run("train/autoencoder.py", *arguments(tmp_path / "resumed"))
    assert not (tmp_path / "resumed" / "model").exists()
    run("train/autoencoder.py", *arguments(tmp_path / "resumed"))
    assert_same_weights(tmp_path / "straight" / "model", tmp_path / "resumed" / "model")
    assert lines(tmp_path / "straight") == lines(tmp_path / "resumed")
    assert len(lines(tmp_path / "straight")) == 7  # six reports and an evaluation


def test_stage_2_resumed_equals_straight_bit_for_bit(stage1, tmp_path, monkeypatch):
    def arguments(folder):
        return [*diffusion(stage1, folder), "--run.steps", 6, "--run.save_every", 3]

    run("train/diffusion.py", *arguments(tmp_path / "straight"))
    with monkeypatch.context() as patch:
        die_after_first_save(patch)
        with pytest.raises(Killed):
            run("train/diffusion.py", *arguments(tmp_path / "resumed"))
    run("train/diffusion.py", *arguments(tmp_path / "resumed"))
    pipelines = [tmp_path / name / "diffusion" / "pipeline" / "denoiser" for name in ("straight", "resumed")]
    assert_same_weights(*pipelines)
    assert lines(tmp_path / "straight" / "diffusion") == lines(tmp_path / "resumed" / "diffusion")


def test_stage_2_leaves_the_autoencoder_as_it_was(stage1, stage2):
    before = weights(stage1 / "model")
    after = LatentDiffusionPipeline.from_pretrained(stage2 / "pipeline").autoencoder.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert before.keys() == after.keys()


def test_accumulation_changes_nothing_but_memory(tmp_path):
    for name, parts in (("whole", 1), ("parts", 4)):
        run(
            "train/autoencoder.py",
            *AUTOENCODER,
            "--run.steps",
            4,
            "--run.accumulation",
            parts,
            "--run.folder",
            tmp_path / name,
        )
    for one, two in zip(lines(tmp_path / "whole"), lines(tmp_path / "parts"), strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-5)


def test_two_processes_equal_one_in_both_stages_and_generate_the_same_images(tmp_path, stage1):
    """The same global batch: losses to 1e-5; the same images, from the same pipeline, split over processes or not."""
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
        # 260 images: two chunks, one for each process. Agreement needs a classifier; IS would need weights.
        start("sample/generate.py", place, "--per-class", 2, "--out", place / "grid.png")
        classifier_folder = tmp_path / "classifier"
        if not classifier_folder.exists():
            run(
                "train/classifier.py",
                "configs/digits/classifier.yaml",
                "--run.steps",
                1,
                "--classifier.width",
                8,
                "--run.folder",
                classifier_folder,
            )
        start(
            "sample/evaluate.py",
            place,
            "--metrics",
            "agreement",
            "--classifier",
            classifier_folder,
            "--num-images",
            260,
        )
        chunks = sorted((place / "evaluation").glob("*/images-*.safetensors"))
        images[place] = torch.cat([load_file(path)["images"] for path in chunks])
        assert [len(load_file(path)["images"]) for path in chunks] == [250, 10]
    first, second = images.values()
    assert (first.int() - second.int()).abs().max() <= 1
    assert (first != second).float().mean() < 0.01
    assert (one / "diffusion" / "grid.png").read_bytes() == (tmp_path / "copy" / "grid.png").read_bytes()


def test_the_run_folder_holds_what_the_map_says(stage1, stage2):
    for folder, saved in ((stage1, "model"), (stage2, "pipeline")):
        assert (folder / "config.yaml").exists() and (folder / saved).is_dir()
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000002"]
        assert [path.name for path in (folder / "samples").glob("*.png")] == ["step-00000002.png"]
        assert all({"step", "images"} <= row.keys() for row in lines(folder))
    autoencoder = INRAutoencoder.from_pretrained(stage1 / "model")
    assert autoencoder.latent_shape == (8, 16)


def test_encoding_on_the_fly_works_without_a_cache(stage1, tmp_path):
    run(
        "train/diffusion.py",
        *diffusion(stage1, tmp_path),
        "--latents.folder",
        "null",
        "--latents.flips",
        "true",
        "--run.steps",
        2,
    )
    assert not (tmp_path / "latents").exists()
    assert (tmp_path / "diffusion" / "pipeline" / "model_index.json").exists()


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
        "train/autoencoder.py",
        *AUTOENCODER,
        "--optimizer.lr",
        "1e30",
        "--run.steps",
        9,
        "--run.folder",
        tmp_path,
        expect=2,
    )
    assert "is not finite, the run has diverged" in capsys.readouterr().err


def test_the_average_is_what_is_saved(tmp_path):
    """With a decay so near 1 that the average stays behind, the saved model is not the trained weights but the average."""
    run("train/autoencoder.py", *AUTOENCODER, "--run.steps", 3, "--run.folder", tmp_path)
    saved = weights(tmp_path / "model")
    checkpoint = tmp_path / "checkpoints" / "step-00000003"
    average, raw = (load_file(checkpoint / f"{name}.safetensors") for name in ("average", "model"))
    assert all(torch.equal(saved[name], average[name]) for name in saved)
    assert not all(torch.equal(saved[name], raw[name]) for name in saved)


def test_the_two_term_loss_trains(stage1, tmp_path):
    extra = [
        "--diffusion.loss",
        "two_term",
        "--diffusion.image_coords",
        20,
        "--denoiser.conditioning",
        "token",
        "--latents.flips",
        "true",
    ]
    run("train/diffusion.py", *diffusion(stage1, tmp_path), *extra, "--run.steps", 2, "--ema", "null")
    assert all(row["loss"] > 0 for row in lines(tmp_path / "diffusion") if "loss" in row)


def test_random_target_sizes_and_coordinates_of_the_paper_train(tmp_path):
    folder = tmp_path / "sizes"
    run(
        "train/autoencoder.py",
        *AUTOENCODER,
        "--data.source_size",
        12,
        "--reconstruction.num_coords",
        30,
        "--run.steps",
        2,
        "--run.folder",
        folder,
    )
    paper = ["--reconstruction.coords", "gaussian", "--reconstruction.targets", "pixel", "--run.tracker", "tensorboard"]
    run("train/autoencoder.py", *AUTOENCODER, *paper, "--run.steps", 2, "--run.folder", tmp_path / "paper")
    assert list((tmp_path / "paper").rglob("events.out.tfevents*")), "the tracker wrote nothing"


def test_latents_script_writes_once_and_refuses_another_autoencoder(stage1, tmp_path, capsys):
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


def test_generate_reconstruct_and_evaluate(stage1, stage2, classifier, tmp_path):
    run(
        "sample/generate.py",
        stage2,
        "--classes",
        "0-1,7",
        "--per-class",
        2,
        "--size",
        "16x24",
        "--out",
        tmp_path / "g.png",
        "--images",
        tmp_path / "all",
    )
    assert sorted(p.name for p in (tmp_path / "all").iterdir())[-1] == "000005-7.png"
    run("sample/reconstruct.py", stage1, "--size", 16, "--num-images", 10, "--out", tmp_path / "r.png")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["num_images"] == 10 and {"psnr", "psnr_16", "ssim_16"} <= report.keys()

    metrics = [
        "--metrics",
        "fd_classifier,agreement",
        "--classifier",
        classifier,
        "--num-images",
        40,
        "--out",
        tmp_path / "e.json",
    ]
    with pytest.warns(UserWarning, match="below 10,000 a Fréchet distance is biased"):
        run("sample/evaluate.py", stage2, *metrics)
    report = json.loads((tmp_path / "e.json").read_text())
    found = report["metrics"]
    assert found["fd_floor"] < found["fd_classifier"], "two steps of training are far from the data"
    assert 0 <= found["class_agreement"] <= 1 and 0.1 < found["classifier_accuracy"] <= 1
    assert report["sampling"]["guidance_scale"] == 1.5 and report["biased"] and report["reference"]["num_images"] == 359
    (chunk,) = (stage2 / "evaluation").glob("*/images-*.safetensors")
    before = chunk.stat().st_mtime_ns
    with pytest.warns(UserWarning):
        run("sample/evaluate.py", stage2, *metrics, "--batch-size", 7)
    assert chunk.stat().st_mtime_ns == before, "images were made again"
    assert json.loads((tmp_path / "e.json").read_text())["metrics"] == found


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (
            "train/autoencoder.py",
            ["configs/digits/anr.yaml", "--optimizer.lrr", "1"],
            "optimizer.lrr: unknown key; did you mean 'lr'",
        ),
        ("train/autoencoder.py", ["configs/digits/none.yaml"], "no such config file; there are .*anr.yaml"),
        (
            "train/autoencoder.py",
            ["configs/digits/anr.yaml", "--data.source", "./nowhere", "--dry-run"],
            "data.source './nowhere' does not exist",
        ),
        (
            "train/autoencoder.py",
            ["configs/digits/anr.yaml", "--run.accumulation", "7"],
            "batch 64 cannot be cut into 7 equal parts",
        ),
        (
            "train/diffusion.py",
            ["configs/digits/diffusion.yaml", "--autoencoder", "runs/nowhere"],
            "no model there .*give the run or model folder",
        ),
        (
            "train/latents.py",
            ["configs/celeba/diffusion.yaml"],
            "train it first: python train/autoencoder.py configs/celeba/anr.yaml",
        ),
        ("train/latents.py", ["configs/digits/diffusion.yaml", "--latents.folder", "null"], "latents.folder is null"),
        (
            "train/autoencoder.py",
            ["configs/digits/anr.yaml", "--reconstruction.num_coords", "122"],
            "122 is more than the 121",
        ),
        ("train/diffusion.py", ["configs/digits/diffusion.yaml", "--data.flip", "true"], "set latents.flips"),
        (
            "train/diffusion.py",
            ["configs/digits/diffusion.yaml", "--data.crop", "random"],
            "each image is encoded once",
        ),
        (
            "train/diffusion.py",
            ["configs/digits/diffusion.yaml", "--sampling.steps", "1001"],
            "more than the noise levels",
        ),
        (
            "train/classifier.py",
            ["configs/digits/classifier.yaml", "--classifier.stages", "6"],
            "halve 8 pixels to nothing",
        ),
        ("train/classifier.py", ["configs/digits/classifier.yaml", "--classifier.width", "10"], "multiple of 8"),
        ("sample/generate.py", ["runs/nowhere"], "no pipeline there"),
        ("sample/evaluate.py", ["runs/nowhere", "--metrics", "fdi"], "'fdi' is not one of .*did you mean 'fid'"),
        ("sample/evaluate.py", ["runs/nowhere"], "no run folder"),
        ("sample/reconstruct.py", ["runs/nowhere"], "no model there"),
    ],
)
def test_mistakes_get_one_message_and_status_2(script, arguments, message, capsys, monkeypatch, tmp_path):
    import re

    run(script, *arguments, *(["--run.folder", tmp_path] if script == "train/autoencoder.py" else []), expect=2)
    shown = capsys.readouterr().err
    assert re.search(message, shown, re.DOTALL), shown
    assert "Traceback" not in shown


def test_mistakes_with_a_trained_run(stage1, stage2, tmp_path, capsys):
    for arguments, message in (
        (["--classes", "10"], "class 10 does not exist; this model has 0 to 9"),
        (["--classes", "zero"], "'zero' is no class"),
        (["--size", "0"], "--size '0'"),
        (["--region", "0,0,1"], "--region '0,0,1': give 4 numbers"),
        (["--region", "1,1,0,0"], "is empty"),
        (["--scheduler", "ddimm"], "sampling: scheduler: got 'ddimm'"),
        (["--per-class", "0"], "'0' is no positive whole number"),
        (["--num-images", "3", "--classes", "1"], "give one of them"),
    ):
        run("sample/generate.py", stage2, *arguments, "--out", tmp_path / "x.png", expect=2)
        assert message in capsys.readouterr().err
    run("sample/evaluate.py", stage2, "--metrics", "fd_classifier", expect=2)
    assert "need --classifier" in capsys.readouterr().err
    run("sample/evaluate.py", stage2, "--inception-weights", tmp_path / "none.pth", "--num-images", 2, expect=2)
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_what_does_not_compare_is_not_compared(stage2, classifier, tmp_path, capsys):
    metrics = ["--metrics", "fd_classifier", "--classifier", classifier, "--num-images", 4]
    for arguments, message in (
        (["--region", "-1,-1,0,0"], "a part of an image cannot be compared with whole ones"),
        (["--size", "16"], "its image_size is 8, the samples have 16"),
    ):
        run("sample/evaluate.py", stage2, *metrics, *arguments, expect=2)
        assert message in capsys.readouterr().err


def test_a_failed_start_deletes_nothing(stage1, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(stage1, folder)
    nowhere = ["--data.source", "./nowhere", "--restart", "--run.folder", folder]
    run("train/autoencoder.py", *AUTOENCODER, *nowhere, "--run.steps", 2, expect=2)
    assert (folder / "model" / "config.json").exists() and (folder / "checkpoints" / "step-00000002").is_dir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    run("train/quickstart.py", "--folder", tmp_path / "mine", expect=2)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    run(
        "train/autoencoder.py",
        *AUTOENCODER,
        "--run.folder",
        tmp_path / "mine" / "thesis.txt",
        "--run.steps",
        1,
        expect=2,
    )
    assert "is a file: give a folder" in capsys.readouterr().err


def test_stage_2_does_not_go_on_on_another_autoencoder(stage1, tmp_path, capsys):
    place = tmp_path / "anr"
    shutil.copytree(stage1, place)
    arguments = [*diffusion(place, tmp_path), "--latents.folder", "null"]
    run("train/diffusion.py", *arguments, "--run.steps", 1)
    run("train/autoencoder.py", *AUTOENCODER, "--run.steps", 3, "--run.folder", place)
    run("train/diffusion.py", *arguments, "--run.steps", 2, expect=2)
    assert "this run was trained on another autoencoder" in capsys.readouterr().err


def test_a_run_does_not_go_on_on_other_images(stage1, tmp_path, capsys):
    shutil.copytree(stage1, tmp_path / "run")
    table = ImageData(DataSpec(), "held_out", (8, 8), 1).rows
    table.to_parquet(tmp_path / "other.parquet")
    other = ["--data.source", tmp_path / "other.parquet", "--run.folder", tmp_path / "run"]
    run("train/autoencoder.py", *AUTOENCODER, *other, "--run.steps", 3, expect=2)
    assert "this run was trained on another data" in capsys.readouterr().err


def test_settings_that_change_nothing_learned_may_change(stage1, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(stage1, folder)
    more = ["--run.steps", 3, "--run.folder", folder, "--data.in_memory", "false", "--data.num_workers", 0]
    run("train/autoencoder.py", *AUTOENCODER, *more)
    assert lines(folder)[-1]["step"] == 3


def test_a_finished_run_started_again_does_nothing_more(stage1, tmp_path):
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
    shown = capsys.readouterr().out
    assert "data: digits (held_out): 359 images as 1 × 8 × 8, 10 classes" in shown
    assert script == "latents" or "parameters" in shown
    assert script == "classifier" or "8 tokens of 16" in shown
    assert not (tmp_path / "run").exists()


# locality-aware latents and the baselines

LOCALITY = ["--autoencoder.encoder.dim", 16, "--autoencoder.encoder.mlp_dim", 16, "--run.batch", 16]
LOCALITY += ["--run.evaluate_images", 20, "--run.report_every", 1]


@pytest.fixture(scope="module")
def locality(tmp_path_factory):
    """A locality-aware autoencoder trained for a few steps."""
    folder = tmp_path_factory.mktemp("locality") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run(
            "train/autoencoder.py", "configs/digits/locality.yaml", *LOCALITY, "--run.steps", 20, "--run.folder", folder
        )
    return folder


def test_the_whole_road_with_locality_aware_latents(locality, tmp_path):
    stage2 = ["configs/digits/diffusion_locality.yaml", *SMALL_DENOISER, "--autoencoder", locality]
    stage2 += ["--latents.folder", tmp_path / "latents", "--run.folder", tmp_path / "diffusion", "--run.batch", 16]
    run("train/latents.py", *stage2)
    run("train/diffusion.py", *stage2, "--run.steps", 2, "--run.evaluate_images", 20, "--sampling.steps", 2)
    run("sample/generate.py", tmp_path / "diffusion", "--classes", "0-2", "--per-class", 2, "--size", 24,
        "--out", tmp_path / "grid.png")  # fmt: skip
    assert (tmp_path / "grid.png").exists()


def test_a_run_with_dropout_resumed_equals_straight(tmp_path):
    arguments = ["configs/digits/locality.yaml", *LOCALITY, "--autoencoder.encoder.dropout", 0.3]
    arguments += ["--optimizer.schedule", "constant"]
    for name, steps in (("straight", 4), ("resumed", 2), ("resumed", 4)):
        run("train/autoencoder.py", *arguments, "--run.folder", tmp_path / name, "--run.steps", steps)
    straight, resumed = (
        load_file(tmp_path / name / "checkpoints" / "step-00000004" / "model.safetensors")
        for name in ("straight", "resumed")
    )
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_refined_reconstructions_are_better_and_reported(locality, tmp_path):
    arguments = [locality, "--num-images", 6, "--refine-steps", 25, "--out", tmp_path / "refined.png"]
    run("sample/reconstruct.py", *arguments)
    report = json.loads((tmp_path / "refined.json").read_text())
    refinement = report["refinement"]
    assert refinement["raised"] == 6 and refinement["steps"] == 25 and refinement["seconds"] > 0
    assert report["psnr"] > report["psnr_before"]
    run("sample/reconstruct.py", *arguments, "--refine-decoder")
    both = json.loads((tmp_path / "refined.json").read_text())
    assert both["psnr_before"] == pytest.approx(report["psnr_before"], abs=1e-3)
    assert both["psnr"] > report["psnr"]


def test_refinement_options_that_cannot_be(locality, capsys):
    run("sample/reconstruct.py", locality, "--refine-decoder", expect=2)
    assert "say for how many steps with --refine-steps" in capsys.readouterr().err
    run("sample/reconstruct.py", locality, "--refine-steps", -1, "--num-images", 1, expect=2)
    assert "'-1' is no whole number from 0" in capsys.readouterr().err
    run("sample/reconstruct.py", locality, "--refine-steps", 1, "--refine-lr", -1, "--num-images", 1, expect=2)
    assert "refinement rates -1.0 and None cannot be: give positive numbers" in capsys.readouterr().err
    run("sample/reconstruct.py", locality, "--refine-steps", 1, "--refine-coords", 65, "--num-images", 1, expect=2)
    assert "on 65 of 64 pixels cannot be" in capsys.readouterr().err


def test_locality_pictures(locality, stage1, tmp_path, capsys):
    for number, folder in enumerate((locality, stage1)):  # any representation
        out = tmp_path / f"{number}.png"
        run("sample/locality.py", folder, "--tokens", "1,2", "--num-images", 3, "--scale", 2, "--out", out)
        report = json.loads(out.with_suffix(".json").read_text())
        assert (
            report["spread_of_tokens"].keys() == {"1", "2"} and 0 < report["spread"] <= 1 and report["num_images"] == 3
        )
        with Image.open(out) as picture:
            assert picture.size == (4 * 16 + 5 * 2, 3 * 16 + 4 * 2)  # original, reconstruction, two tokens; gaps of 2
    run("sample/locality.py", locality, "--tokens", "8", expect=2)
    assert "token 8 is not there: the latents have tokens 0 to 7" in capsys.readouterr().err
    run("sample/locality.py", locality, "--tokens", "one", expect=2)
    assert "--tokens 'one': give whole numbers" in capsys.readouterr().err
    run("sample/locality.py", locality, "--num-tokens", 9, expect=2)
    assert "--num-tokens 9 is more than the 8 tokens" in capsys.readouterr().err


def test_a_run_stops_when_its_seconds_are_up_and_keeps_what_it_has(tmp_path):
    arguments = [*AUTOENCODER, "--run.folder", tmp_path / "run", "--run.steps", 100_000, "--run.seconds", 0.5]
    run("train/autoencoder.py", *arguments)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    assert 0.5 <= last["seconds"] < 5 and 0 < last["step"] < 100_000
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    assert (tmp_path / "run" / "checkpoints" / f"step-{last['step']:08d}").is_dir()
    assert (tmp_path / "run" / "model" / "config.json").exists() and any("psnr" in row for row in rows)
    run("train/autoencoder.py", *arguments)  # the time is up already
    again = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert again[-1]["step"] == last["step"]


def small_comparison(folder: Path) -> list:
    """Two YAMLs, and the options of a comparison of seconds."""
    for name, decoder in (("one", "{type: ipc, hidden_dim: 16}"), ("two", "{hidden_dim: 16}")):
        (folder / f"{name}.yaml").write_text(
            f"base: {PROJECT}/configs/digits/locality.yaml\nautoencoder:\n  decoder: {decoder}\nrun: {{folder: x}}\n"
        )
    arguments = ["--folder", folder / "out", "--num-images", 10, *LOCALITY, "--autoencoder.latent_dim", 16]
    return [*arguments, "--run.steps", 4, "--run.evaluate_every", 2, folder / "one.yaml", folder / "two.yaml"]


def test_representations_are_compared_in_one_table(tmp_path):
    arguments = small_comparison(tmp_path)
    run("train/compare.py", *arguments)
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [row["name"] for row in rows] == ["one", "two"] and rows[0]["representation"] == [8, 16]
    held_out = ImageData(DataSpec(), "held_out", (8, 8), 1)
    for row in rows:
        model = INRAutoencoder.from_pretrained(tmp_path / "out" / f"{row['name']}-seed0" / "model")
        assert row["decoder_parameters"] == sum(p.numel() for p in model.decoder.parameters())
        expected = reconstruction_psnr(model, held_out, evenly(len(held_out), 10)).mean()
        assert row["equal_images"] == 64 and row["psnr"] == pytest.approx(float(expected), abs=1e-4)
        assert row["psnr_by_seed"] == {"0": row["psnr"]} and row["num_images"] == 10 and row["curve_images"] == 20
    with Image.open(tmp_path / "out" / "comparison.png") as picture:
        assert picture.format == "PNG"
    assert "| two | " in (tmp_path / "out" / "comparison.md").read_text()


def test_a_comparison_reads_curves_where_the_shortest_run_ends():
    at = runpy.run_path(str(PROJECT / "train" / "compare.py"))["at"]
    curve = [(100, 2.0, 10.0), (200, 4.0, 14.0)]
    assert at(curve, 0, 150) == 12 and at(curve, 1, 2.5) == 11 and at(curve, 0, 200) == 14
    assert at(curve, 0, 99) is None  # before the first evaluation nothing is known


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--run.seed", 3], "--run.seed: every run has its own; give --seeds"),
        (["--run.folder", "x"], "--run.folder: every run has its own; give --folder"),
        (["--num-images", 0], "'0' is no positive whole number"),
        (["one.yaml"], "two of the configs have the same file name"),
        (["other.yaml"], "one and other differ in data, so their PSNR would not compare"),
        (["wrong.yaml"], "wrong.yaml: run.stepss: unknown key"),
    ],
)
def test_a_comparison_that_cannot_be_stops_before_training(extra, message, tmp_path, capsys):
    arguments = small_comparison(tmp_path)
    (tmp_path / "other.yaml").write_text(f"base: {tmp_path}/one.yaml\ndata: {{held_out_fraction: 0.3}}\n")
    (tmp_path / "wrong.yaml").write_text(f"base: {tmp_path}/one.yaml\nrun: {{stepss: 3}}\n")
    extra = [tmp_path / word if str(word).endswith(".yaml") else word for word in extra]
    run("train/compare.py", *arguments, *extra, expect=2)
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_failed_run_leaves_the_table_of_the_others(tmp_path, capfd):
    arguments = small_comparison(tmp_path)
    (tmp_path / "two.yaml").write_text(f"base: {tmp_path}/one.yaml\noptimizer: {{lr: 1e30, clip_norm: null}}\n")
    run("train/compare.py", *arguments, expect=2)
    assert "two with seed 0 failed, see above; the same command goes on from what is done" in capfd.readouterr().err
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [row["name"] for row in rows] == ["one"]


def test_random_crops_train(tmp_path):
    arguments = ["configs/photographs/locality.yaml", "--autoencoder.image_size", 32, "--run.batch", 2]
    arguments += ["--autoencoder.encoder.dim", 16, "--reconstruction.num_coords", 64, "--run.steps", 2]
    arguments += ["--run.report_every", 1]
    run("train/autoencoder.py", *arguments, "--run.folder", tmp_path)
    assert (tmp_path / "model" / "config.json").exists()
    other = ["--data.crop", "centre", "--run.folder", tmp_path / "centre"]
    run("train/autoencoder.py", *arguments, *other)
    assert [row["loss"] for row in lines(tmp_path / "centre") if "loss" in row] != [
        row["loss"] for row in lines(tmp_path) if "loss" in row
    ]


@pytest.mark.slow
@pytest.mark.parametrize("representation", ["anr", "locality"])
def test_the_quickstart_passes_its_bars(representation, tmp_path):
    run("train/quickstart.py", "--representation", representation, "--folder", tmp_path / "quickstart")
    report = json.loads((tmp_path / "quickstart" / "report.json").read_text())
    assert report["reconstruction"]["psnr"] > 29 and report["reconstruction"]["psnr_64"] > 30
    assert report["classifier"]["accuracy"] > 0.97 and report["generation"]["class_agreement"] > 0.95
    assert report["generation"]["fd_classifier"] < 3 * report["generation"]["fd_floor"]
