"""Generate, reconstruct and evaluate from a trained run's folder."""

import json
import shutil

import pytest

from genrep.pictures import picture_grid, save_png
from genrep.pipelines.diffusion import LatentDiffusionPipeline
from genrep.randomness import image_generators
from tests.scripts import run


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


def test_what_does_not_compare_is_not_compared(stage2, classifier, tmp_path, capsys):
    metrics = ["--metrics", "fd_classifier", "--classifier", classifier, "--num-images", 4]
    for arguments, message in (
        (["--region", "-1,-1,0,0"], "a part of an image cannot be compared with whole ones"),
        (["--size", "16"], "its image_size is 8, the samples have 16"),
    ):
        run("sample/evaluate.py", stage2, *metrics, *arguments, expect=2)
        assert message in capsys.readouterr().err


def test_a_copied_pipeline_draws_what_its_run_draws(stage2, tmp_path):
    """Through the script and in Python, without saying how: the settings go with the pipeline."""
    shutil.copytree(stage2 / "pipeline", tmp_path / "copied")
    grids = []
    for place in (stage2, tmp_path / "copied"):
        run(
            "sample/generate.py",
            place,
            "--classes",
            "0-1",
            "--per-class",
            2,
            "--seed",
            3,
            "--out",
            tmp_path / "grid.png",
        )
        grids.append((tmp_path / "grid.png").read_bytes())
    assert grids[0] == grids[1]
    pipeline = LatentDiffusionPipeline.from_pretrained(tmp_path / "copied")
    assert pipeline.sampling_settings() == {
        "num_inference_steps": 2, "guidance_scale": 1.5, "guidance_interval": (0.0, 1.0),
    }  # fmt: skip
    images = pipeline([0, 0, 1, 1], generator=image_generators(3, range(4)), output_type="uint8").images
    save_png(picture_grid(images, 2), tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes() == grids[0]


def test_scripts_compute_in_bf16(stage1, stage2, tmp_path):
    run(
        "sample/generate.py", stage2, "--classes", "0", "--per-class", 2, "--dtype", "bf16", "--out", tmp_path / "g.png"
    )
    run(
        "sample/reconstruct.py",
        stage1,
        "--num-images",
        4,
        "--dtype",
        "bf16",
        "--refine-steps",
        1,
        "--out",
        tmp_path / "r.png",
    )
    assert json.loads((tmp_path / "r.json").read_text())["num_images"] == 4
    run(
        "sample/locality.py",
        stage1,
        "--num-images",
        2,
        "--num-tokens",
        2,
        "--dtype",
        "bf16",
        "--out",
        tmp_path / "l.png",
    )
    assert 0 < json.loads((tmp_path / "l.json").read_text())["spread"] <= 1


def test_a_size_that_the_machine_cannot_hold_is_one_message(stage1, stage2, tmp_path, capsys):
    run("sample/generate.py", stage2, "--classes", "0", "--size", 10**6, "--out", tmp_path / "g.png", expect=2)
    assert "images of 1000000 × 1000000 pixels would take" in capsys.readouterr().err
    run("sample/reconstruct.py", stage1, "--num-images", 1, "--size", 10**6, "--out", tmp_path / "r.png", expect=2)
    assert "a render of 1000000 × 1000000 would take" in capsys.readouterr().err
