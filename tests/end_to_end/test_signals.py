"""Curves and clips through all scripts, for a few steps at tiny sizes."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file

from genrep import GANPipeline, INRAutoencoder, LatentDiffusionPipeline, NeuralField
from genrep.data.arrays import ArrayData
from genrep.data.latents import LatentCache
from genrep.data.made_up import blobs, sines
from genrep.training.folders import run_data
from tests.scripts import PROJECT, lines, run

KINDS = {
    "sines": SimpleNamespace(shape=(256,), larger=(512,), patch=32, picture=(96, 192)),
    "blobs": SimpleNamespace(shape=(8, 16, 16), larger=(8, 32, 32), patch=[4, 8, 8], picture=(16, 8 * 17 - 1)),
}
"""Sizes of `sines` and `blobs`; `picture` is the size (height, width) of one signal's picture."""
EVALUATION = {"evaluate_images": 10, "report_every": 1, "steps": 2, "batch": 8}


def write_yaml(path: Path, content: dict) -> Path:
    with path.open("w") as file:
        YAML(typ="safe", pure=True).dump(content, file)
    return path


def configs(folder: Path, kind: str) -> dict[str, Path]:
    """Small configs of all stages."""
    of = KINDS[kind]
    data = {"type": "arrays", "source": kind, "value_range": [-2.0, 2.0], "in_memory": True}
    block = {"num_heads": 2, "head_dim": 8, "mlp_dim": 16, "dim": 16}
    latents = {"folder": str(folder / "latents"), "batch": 500}

    def stage(name: str, **keys) -> Path:
        return write_yaml(
            folder / f"{name}.yaml", {"data": data, "run": {"folder": str(folder / name), **EVALUATION}, **keys}
        )

    generator = {"noise_dim": 8, "widths": [16, 16], "tile": [2], "cells": [4], "num_frequencies": 3}
    discriminator = {"width": 8, "depth": 3, "scales": 2, "token_width": 16, "token_depth": 2}
    return {
        "autoencoder": stage(
            "autoencoder",
            autoencoder={
                "image_size": list(of.shape), "channels": 1, "num_tokens": 4, "latent_dim": 8,
                "encoder": {"type": "cross_attention", "patch_size": of.patch, "encoder_depth": 1, "decoder_depth": 1, **block},
                "decoder": {"type": "multiband", "hidden_dim": 16, "num_features": 12, "bandwidths": [8.0, 4.0]},
            },
            reconstruction={"num_coords": 100},
        ),
        "diffusion": stage(
            "diffusion", autoencoder=str(folder / "autoencoder"), latents=latents, denoiser={"depth": 1, **block},
            sampling={"num_inference_steps": 2, "guidance_scale": 1.5},
        ),
        "gan": stage("gan", image_size=list(of.shape), channels=1, generator=generator, discriminator=discriminator),
        "gan_latents": stage(
            "gan_latents", autoencoder=str(folder / "autoencoder"), latents=latents, generator=generator,
            discriminator=discriminator, gan={"target": "latents", "sees": "both"},
        ),
        "classifier": stage("classifier", image_size=list(of.shape), channels=1, classifier={"width": 8}),
    }  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def runs(request, tmp_path_factory):
    """A folder with the runs of all stages, trained for two steps."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    stages = configs(folder, kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run("train/autoencoder.py", stages["autoencoder"])
        run("train/latents.py", stages["diffusion"])
        run("train/diffusion.py", stages["diffusion"])
        run("train/gan.py", stages["gan"])
        run("train/gan.py", stages["gan_latents"])
        run("train/classifier.py", stages["classifier"])
    return SimpleNamespace(folder=folder, kind=kind, stages=stages, **vars(KINDS[kind]))


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width)."""
    with Image.open(path) as picture:
        return picture.size[::-1]


def grid_size(runs, rows: int, columns: int, size=None, gap: int = 2) -> tuple[int, int]:
    """(height, width) of a grid of pictures."""
    height, width = runs.picture if size is None else size
    return rows * (height + gap) + gap, columns * (width + gap) + gap


def test_stage_1_learns_and_is_saved(runs):
    rows = lines(runs.folder / "autoencoder")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    (psnr,) = [row["psnr"] for row in rows if "psnr" in row]
    assert 0 < psnr < 40
    model = INRAutoencoder.from_pretrained(runs.folder / "autoencoder" / "model")
    assert model.image_shape == runs.shape and model.position_dim == 0
    assert model.signal.spec.model_dump() == {"type": "array", "low": -2.0, "high": 2.0, "unit": "", "axes": []}
    curves = torch.rand(2, 1, *runs.shape)
    assert model.render(model.encode(curves), size=runs.larger).shape == (2, 1, *runs.larger)
    assert (runs.folder / "autoencoder" / "samples" / "step-00000002.png").exists()


def test_the_psnr_of_a_run_is_that_of_its_model(runs):
    """With the config's range of 4 as the peak, over the ten held-out signals that the run evaluates."""
    data = ArrayData(run_data(runs.folder / "autoencoder"), "held_out", runs.shape, 1)
    model = INRAutoencoder.from_pretrained(runs.folder / "autoencoder" / "model").freeze()
    kept = data.read([number * len(data) // 10 for number in range(10)])
    restored = 2 * model.render(model.encode(kept / 2))
    mse = (restored - kept).square().flatten(1).mean(1)
    (logged,) = [row["psnr"] for row in lines(runs.folder / "autoencoder") if "psnr" in row]
    assert float((10 * (16 / mse).log10()).mean()) == pytest.approx(logged, abs=1e-3)


def test_latents_are_cached_with_their_labels(runs):
    train, held_out = (LatentCache(runs.folder / "latents", split=split) for split in ("train", "held_out"))
    assert (len(train), len(held_out)) == (1600, 400) and len(train.class_names) == 4
    assert train.latents([5, 1599]).shape == (2, 4, 8) and train.masks([0]) is None and train.mean.shape == (4, 8)
    assert sorted(train.labels.unique().tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("stage", ["diffusion", "gan", "gan_latents"])
def test_generators_draw_arrays_in_their_own_unit(runs, stage, tmp_path):
    rows = lines(runs.folder / stage)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    kind = LatentDiffusionPipeline if stage == "diffusion" else GANPipeline
    pipeline = kind.from_pretrained(runs.folder / stage / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    assert list(pipeline.config.id2label.values()) == (sines if runs.kind == "sines" else blobs)()[2]

    def draw(output_type, **keys):
        return pipeline([0, 3], generator=torch.Generator().manual_seed(0), output_type=output_type, **keys).images

    arrays = draw("np")
    assert arrays.shape == (2, 1, *runs.shape) and arrays.dtype == np.float32 and np.isfinite(arrays).all()
    assert np.array_equal(arrays, draw("kept").numpy()) and np.array_equal(arrays, draw("pt").numpy())
    if pipeline.autoencoder is not None:  # the decoder's -1 to 1 is -2 to 2 in the arrays' unit
        rendered = pipeline.autoencoder.render(draw("latent"))
        torch.testing.assert_close(torch.from_numpy(arrays), 2 * rendered, atol=1e-5, rtol=1e-5)
    assert draw("np", size=runs.larger).shape == (2, 1, *runs.larger)
    assert draw("uint8").shape == (2, 3, *runs.picture)
    assert draw("pil")[0].size == runs.picture[::-1]

    size = "x".join(map(str, runs.larger))
    run("sample/generate.py", runs.folder / stage, "--classes", "0,2", "--per-class", 3, "--out", tmp_path / "g.png")
    assert picture_size(tmp_path / "g.png") == grid_size(runs, 2, 3)
    run(
        "sample/generate.py",
        runs.folder / stage,
        "--classes",
        1,
        "--per-class",
        1,
        "--size",
        size,
        "--out",
        tmp_path / "h.png",
    )
    assert (tmp_path / "h.png").exists()


@pytest.mark.parametrize("stage", ["diffusion", "gan"])
def test_generators_are_measured_by_a_classifier(runs, stage, tmp_path):
    options = [
        "--metrics", "fd_classifier,agreement", "--classifier", runs.folder / "classifier", "--num-images", 24,
        "--reference-images", 30, "--out", tmp_path / "e.json",
    ]  # fmt: skip
    with pytest.warns(UserWarning, match="biased"):
        run("sample/evaluate.py", runs.folder / stage, *options)
    report = json.loads((tmp_path / "e.json").read_text())
    metrics = report["metrics"]
    assert all(math.isfinite(value) for value in metrics.values())
    assert 0 <= metrics["class_agreement"] <= 1 and metrics["fd_classifier"] > metrics["fd_floor"] >= 0
    assert ("fd_reconstruction" in metrics) == (stage == "diffusion")
    assert report["reference"]["shape"] == list(runs.shape) and report["reference"]["value_range"] == [-2.0, 2.0]
    (chunk,) = (tmp_path / "evaluation").glob("*/images-*.safetensors")
    kept = load_file(chunk)["images"]
    assert kept.dtype == torch.float32 and kept.shape == (24, 1, *runs.shape)


def test_inception_is_refused_for_arrays(runs, capsys):
    run("sample/evaluate.py", runs.folder / "diffusion", "--metrics", "fid", "--num-images", 4, expect=2)
    assert "Inception's features are for images: measure other signals with fd_classifier" in capsys.readouterr().err


def test_reconstructions_are_measured_in_the_arrays_unit(runs, tmp_path):
    size = "x".join(map(str, runs.larger))
    options = ["--num-images", 6, "--show", 3, "--size", size, "--out", tmp_path / "r.png"]
    run("sample/reconstruct.py", runs.folder / "autoencoder", *options)
    report = json.loads((tmp_path / "r.json").read_text())
    suffix = f"_{runs.larger[0]}" if len(runs.larger) == 1 else f"_{size}"
    for ending in ("", suffix):
        assert math.isfinite(report[f"psnr{ending}"]) and report[f"rmse{ending}"] > 0
    # a mean of -20 log10(rmse / 4) is at most that of the mean rmse
    assert report["psnr"] >= -20 * math.log10(report["rmse"] / 4) - 1e-6
    assert report["num_images"] == 6 and report["size"] == list(runs.larger) and "ssim" not in report
    assert (tmp_path / "r.png").exists()


def test_dry_runs_print_sizes_and_data(runs, capsys):
    shape = " × ".join(map(str, (1, *runs.shape)))
    for script, stage in (
        ("autoencoder", "autoencoder"),
        ("diffusion", "diffusion"),
        ("gan", "gan"),
        ("classifier", "classifier"),
    ):
        run(f"train/{script}.py", runs.stages[stage], "--dry-run")
        assert f"{runs.kind} (train): 1,600 of {shape}, 4 classes" in capsys.readouterr().out


def test_a_resumed_run_equals_a_straight_one(tmp_path):
    config = configs(tmp_path, "sines")["autoencoder"]
    for name, steps in (("straight", 3), ("resumed", 1), ("resumed", 3)):
        options = ["--run.steps", steps, "--run.folder", tmp_path / name]
        run("train/autoencoder.py", config, *options)
    one, two = (load_file(next((tmp_path / name / "model").glob("*.safetensors"))) for name in ("straight", "resumed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_fits_one_array(kind, tmp_path):
    of = KINDS[kind]
    array = 100 + 50 * (sines if kind == "sines" else blobs)()[0][0]
    np.save(tmp_path / "one.npy", array)
    config = write_yaml(
        tmp_path / "field.yaml",
        {"field": {"type": "positional_mlp", "widths": [32, 32], "num_frequencies": 3}, "optimizer": {"lr": 1e-2}},
    )
    options = ["--signal.type", "array", "--signal.source", tmp_path / "one.npy", "--signal.unit", "K"]
    options += ["--run.batch", 1, "--run.steps", 40, "--run.evaluate_every", 20, "--run.folder", tmp_path / "run"]
    run("train/field.py", config, *options)
    rows = [row for row in lines(tmp_path / "run") if "psnr" in row]
    assert len(rows) == 2 and rows[1]["psnr"] > rows[0]["psnr"]
    field = NeuralField.from_pretrained(tmp_path / "run" / "model")
    assert field.shape == of.shape and field.signal.spec.scale() == (float(array.min()), float(array.max()))
    kept = field.signal.keep(field.render()).numpy()[0]
    rmse = float(np.sqrt(np.square(kept - array).mean()))
    assert rows[1]["rmse"] == pytest.approx(rmse, rel=1e-3)
    assert rows[1]["psnr"] == pytest.approx(20 * math.log10((array.max() - array.min()) / rmse), abs=1e-2)
    size = "x".join(map(str, of.larger))
    run("sample/render.py", tmp_path / "run", "--size", size, "--out", tmp_path / "render.png")
    height, width = of.picture if kind == "sines" else (32, 8 * 33 - 1)
    assert picture_size(tmp_path / "render.png") == (height, width)
    assert picture_size(tmp_path / "run" / "samples" / "step-00000040.png")[1] > 3 * of.picture[1]


def test_missing_values_are_excluded_from_training(tmp_path):
    """The same curves, complete and with a third of their values missing: losses count only the known values."""
    curves, labels, _ = sines(200, 64)
    holes = np.random.default_rng(0).random(curves.shape) < 1 / 3
    np.savez(tmp_path / "a.npz", values=np.where(holes, np.nan, curves), labels=labels)
    stages = configs(tmp_path, "sines")
    options = ["--data.source", tmp_path / "a.npz", "--autoencoder.image_size", "[64]", "--data.missing", "keep"]
    run("train/autoencoder.py", stages["autoencoder"], *options, "--reconstruction.num_coords", 64, expect=2)
    options += ["--autoencoder.missing", "true", "--reconstruction.num_coords", 64]
    run("train/autoencoder.py", stages["autoencoder"], *options)
    assert all(math.isfinite(value) for row in lines(tmp_path / "autoencoder") for value in row.values())
    run("sample/reconstruct.py", tmp_path / "autoencoder", "--size", "64", "--out", tmp_path / "r.png")
    assert 0 < json.loads((tmp_path / "r.json").read_text())["rmse"] < 4


def test_what_needs_every_value_refuses_missing_ones(tmp_path, capsys):
    curves, labels, _ = sines(200, 64)
    curves = curves.copy()
    curves[:, 3] = np.nan
    np.savez(tmp_path / "a.npz", values=curves, labels=labels)
    stages = configs(tmp_path, "sines")
    options = ["--data.source", tmp_path / "a.npz", "--image_size", "[64]", "--data.missing", "keep"]
    for script in ("classifier", "gan"):
        run(f"train/{script}.py", stages[script], *options, expect=2)
        assert "needs every value, but data.missing is keep" in capsys.readouterr().err
    run("train/gan.py", stages["gan"], "--gan.augment", "[translation]", expect=2)
    assert (
        "gan.augment applies to images, which have 2 axes; these signals have 1: leave it out"
        in capsys.readouterr().err
    )


def test_samples_are_compared_only_at_equal_scale_and_size(tmp_path, runs, capsys):
    if runs.kind != "sines":
        pytest.skip("one kind will do")
    other = tmp_path / "classifier"
    run("train/classifier.py", runs.stages["classifier"], "--data.value_range", "[-1, 1]", "--run.folder", other)
    capsys.readouterr()
    measure = ["--metrics", "agreement", "--num-images", 8, "--out", tmp_path / "e.json"]
    run("sample/evaluate.py", runs.folder / "diffusion", *measure, "--classifier", other, expect=2)
    assert "holds signals" in (message := capsys.readouterr().err) and "low=-1.0" in message.split("trained on")[1]
    same = ["--classifier", runs.folder / "classifier", "--size", 512]
    for script, options in (("evaluate", [*measure, *same]), ("pattern", ["--num-images", 4, "--size", 512])):
        run(f"sample/{script}.py", runs.folder / "diffusion", *options, expect=2)
        message = capsys.readouterr().err
        assert "--size: these signals exist at one size only" in message or "its image_size is 256" in message


def test_other_arrays_are_reconstructed_in_the_models_range(runs, tmp_path):
    """Three signals of small amplitude, whose own range would differ."""
    values = 0.1 * np.random.default_rng(0).standard_normal((3, *runs.shape))
    np.save(tmp_path / "quiet.npy", values)
    options = [
        "--source",
        tmp_path / "quiet.npy",
        "--size",
        "x".join(map(str, runs.shape)),
        "--out",
        tmp_path / "r.png",
    ]
    run("sample/reconstruct.py", runs.folder / "autoencoder", *options)
    report = json.loads((tmp_path / "r.json").read_text())
    model = INRAutoencoder.from_pretrained(runs.folder / "autoencoder" / "model").freeze()
    kept = torch.from_numpy(values).float()[:, None]
    mse = (2 * model.render(model.encode(kept / 2)) - kept).square().flatten(1).mean(1)
    assert report["num_images"] == 3 and report["rmse"] == pytest.approx(float(mse.sqrt().mean()), rel=1e-3)


def test_a_dry_run_finds_what_training_would_refuse(tmp_path, capsys):
    curves = sines(200, 64)[0].copy()
    curves[:, 3] = np.nan
    np.save(tmp_path / "a.npy", curves)
    options = ["--data.source", tmp_path / "a.npy", "--autoencoder.image_size", "[64]", "--data.missing", "keep"]
    config = configs(tmp_path, "sines")["autoencoder"]
    run("train/autoencoder.py", config, *options, "--reconstruction.num_coords", 64, "--dry-run", expect=2)
    assert "data.missing: keep needs autoencoder.missing: true" in capsys.readouterr().err
    run("train/autoencoder.py", config, "--reconstruction.target_size", "[8, 8]", "--dry-run", expect=2)
    assert "reconstruction.target_size must be one number, or one per axis (1); got 2" in capsys.readouterr().err
