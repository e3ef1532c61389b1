"""Generate, reconstruct and evaluate from a trained run's folder."""

import json

import pytest

from genrep import INRAutoencoder
from genrep.data import DataSpec
from genrep.data.images import ImageData, evenly
from genrep.metrics.reconstruction import reconstruction_psnr
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
    assert report["num_images"] == 10 and {"psnr", "psnr_8bit", "psnr_16", "ssim_16"} <= report.keys()
    data, autoencoder = ImageData(DataSpec(), "held_out", (8, 8), 1), INRAutoencoder.from_pretrained(stage1 / "model")
    for key, size in (("psnr", 8), ("psnr_16", 16)):
        expected = reconstruction_psnr(autoencoder, data, evenly(len(data), 10), size).mean()
        assert report[key] == pytest.approx(float(expected), abs=1e-3)
    assert report["psnr_8bit"] == pytest.approx(report["psnr"], abs=0.05) and report["psnr_8bit"] != report["psnr"]

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
