"""Errors as a user sees them: one message, status 2, nothing lost."""

import re
import shutil

import pytest

from genrep.data import DataSpec
from genrep.data.images import ImageData
from tests.scripts import AUTOENCODER, diffusion, run


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
        (
            "train/autoencoder.py",
            ["configs/digits/anr.yaml", "--reconstruction.latent_noise", "0.3", "--run.accumulation", "64"],
            "give run.batch / run.accumulation two images or more",
        ),
        (
            "train/autoencoder.py",
            ["configs/digits/locality.yaml", "--autoencoder.decoder.num_axes", "3"],
            "num_axes must be 2 to train on images",
        ),
        (
            "train/autoencoder.py",
            [
                "configs/digits/locality.yaml",
                "--autoencoder.decoder",
                "{type: ipc, hidden_dim: 16}",
                "--autoencoder.latent_dim",
                "8",
            ],
            "decoder ipc does not fit latents of width 8",
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
