"""Locality-aware latents through all scripts: both stages, refinement, locality pictures, random crops."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.scripts import LOCALITY, SMALL_DENOISER, launch, lines, run


def test_both_stages_with_locality_aware_latents(locality, tmp_path):
    stage2 = ["configs/digits/diffusion_locality.yaml", *SMALL_DENOISER, "--autoencoder", locality]
    stage2 += ["--latents.folder", tmp_path / "latents", "--run.folder", tmp_path / "diffusion", "--run.batch", 16]
    run("train/latents.py", *stage2)
    run(
        "train/diffusion.py",
        *stage2,
        "--run.steps",
        2,
        "--run.evaluate_images",
        20,
        "--sampling.num_inference_steps",
        2,
    )
    run("sample/generate.py", tmp_path / "diffusion", "--classes", "0-2", "--per-class", 2, "--size", 24,
        "--out", tmp_path / "grid.png")  # fmt: skip
    assert (tmp_path / "grid.png").exists()


def test_a_resumed_run_with_dropout_equals_a_straight_one(tmp_path):
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
    assert report["psnr_32"] > report["psnr_32_before"] and {"ssim_32_before", "psnr_8bit_before"} <= report.keys()
    assert refinement["objective"] == {
        "coords": "uniform", "targets": "bicubic", "target_size": 11, "jitter_std": 0.15, "jitter_clip": 0.25,
    }  # fmt: skip
    for ending in ("", "_32"):
        before, after = (refinement[f"psnr{ending}{time}"] for time in ("_before", ""))
        assert refinement[f"raised{ending}"] == sum(one < other for one, other in zip(before, after, strict=True))
        assert report[f"psnr{ending}"] == pytest.approx(sum(after) / 6) and len(before) == 6
    run("sample/reconstruct.py", *arguments, "--refine-decoder")
    with_decoder = json.loads((tmp_path / "refined.json").read_text())
    assert with_decoder["psnr_before"] == pytest.approx(report["psnr_before"], abs=1e-3)
    assert with_decoder["psnr"] > report["psnr"]


def test_locality_pictures(locality, stage1, tmp_path, capsys):
    for number, folder in enumerate((locality, stage1)):  # any representation
        out = tmp_path / f"{number}.png"
        run("sample/locality.py", folder, "--tokens", "1,2", "--num-images", 3, "--scale", 2, "--out", out)
        report = json.loads(out.with_suffix(".json").read_text())
        assert (
            report["spread_of_tokens"].keys() == {"1", "2"} and 0 < report["spread"] <= 1 and report["num_images"] == 3
        )
        with Image.open(out) as picture:
            assert picture.size == (4 * 96 + 5 * 2, 3 * 96 + 4 * 2)  # original, reconstruction, two tokens; gaps of 2
    run("sample/locality.py", locality, "--tokens", "8", expect=2)
    assert "tokens must be in 0 to 7; got 8" in capsys.readouterr().err
    run("sample/locality.py", locality, "--tokens", "one", expect=2)
    assert "--tokens must be integers, as in 0,3,7; got 'one'" in capsys.readouterr().err
    run("sample/locality.py", locality, "--num-tokens", 9, expect=2)
    assert "--num-tokens must be at most 8, the tokens of " in capsys.readouterr().err


def test_training_on_random_crops(tmp_path):
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


def test_two_processes_crop_like_one_and_stop_together_at_run_seconds(tmp_path):
    arguments = ["configs/photographs/locality.yaml", "--autoencoder.image_size", 32, "--run.batch", 4]
    arguments += ["--autoencoder.encoder.dim", 16, "--reconstruction.num_coords", 64, "--run.report_every", 1]
    run("train/autoencoder.py", *arguments, "--run.steps", 3, "--run.folder", tmp_path / "one")
    launch(2, "train/autoencoder.py", *arguments, "--run.steps", 3, "--run.folder", tmp_path / "two")
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, abs=1e-5, rel=1e-5)
    more = ["--run.steps", 100_000, "--run.seconds", 2, "--reconstruction.latent_noise", 0.3]
    launch(2, "train/autoencoder.py", *arguments, *more, "--run.folder", tmp_path / "timed")
    last = lines(tmp_path / "timed")[-1]["step"]
    assert 0 < last < 100_000 and (tmp_path / "timed" / "checkpoints" / f"step-{last:08d}").is_dir()
    assert (tmp_path / "timed" / "model" / "config.json").exists()
