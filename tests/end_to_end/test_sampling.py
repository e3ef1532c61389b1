"""Generating, reconstructing and evaluating from the folders of trained runs."""

import json
import shutil
import urllib.error
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as inception_module
from PIL import Image

from genrep import INRAutoencoder
from genrep.data import ImageDataSpec
from genrep.data.images import ImageData, resize_and_crop
from genrep.data.signals import evenly
from genrep.metrics.fidelity import Chosen, classifier_distance
from genrep.metrics.reconstruction import enlarge, psnr, reconstruction_psnr
from genrep.models.classifier import ImageClassifier
from genrep.pictures import picture_grid, save_png
from genrep.pipelines.diffusion import LatentDiffusionPipeline
from genrep.randomness import image_generators
from genrep.render import from_uint8
from genrep.training.config import read_config
from tests.scripts import diffusion, run


def test_generate_reconstruct_and_evaluate(stage1, stage2, classifier, tmp_path):
    run(
        "sample/generate.py", stage2, "--classes", "0-1,7", "--per-class", 2, "--size", "16x24",
        "--out", tmp_path / "g.png", "--images", tmp_path / "all",
    )  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "all").iterdir())[-1] == "000005-7.png"
    run("sample/reconstruct.py", stage1, "--size", 16, "--num-images", 10, "--out", tmp_path / "r.png")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["num_images"] == 10 and {"psnr", "psnr_8bit", "psnr_16", "ssim_16"} <= report.keys()
    data, autoencoder = (
        ImageData(ImageDataSpec(), "held_out", (8, 8), 1),
        INRAutoencoder.from_pretrained(stage1 / "model"),
    )
    for key, size in (("psnr", 8), ("psnr_16", 16)):
        expected = reconstruction_psnr(autoencoder, data, evenly(len(data), 10), size).mean()
        assert report[key] == pytest.approx(float(expected), abs=1e-3)
    assert report["psnr_8bit"] == pytest.approx(report["psnr"], abs=0.05) and report["psnr_8bit"] != report["psnr"]

    metrics = [
        "--metrics", "fd_classifier,agreement", "--classifier", classifier, "--num-images", 40,
        "--out", tmp_path / "e.json",
    ]  # fmt: skip
    with pytest.warns(UserWarning, match="below 10,000 a Fréchet distance is biased"):
        run("sample/evaluate.py", stage2, *metrics)
    report = json.loads((tmp_path / "e.json").read_text())
    measured = report["metrics"]
    assert measured["fd_floor"] < measured["fd_classifier"], "two steps of training are far from the data"
    assert 0 <= measured["class_agreement"] <= 1 and 0.1 < measured["classifier_accuracy"] <= 1
    assert report["sampling"] == {
        "scheduler": "dpm_solver", "num_inference_steps": 2, "guidance_scale": 1.5, "guidance_interval": [0.0, 1.0],
        "seed": 0, "size": None, "region": None,
    }  # fmt: skip
    assert report["biased"] and report["reference"]["num_images"] == 359
    assert report["floor"]["num_images"] == 40 and report["reconstructions"]["num_images"] == 359
    assert not report["floor"]["fewer_than_generated"]
    assert not (stage2 / "evaluation").exists(), "everything is where --out is"
    (chunk,) = (tmp_path / "evaluation").glob("*/images-*.safetensors")
    before = chunk.stat().st_mtime_ns
    with pytest.warns(UserWarning):
        run("sample/evaluate.py", stage2, *metrics, "--batch-size", 7)
    assert chunk.stat().st_mtime_ns == before, "images were made again"
    assert json.loads((tmp_path / "e.json").read_text())["metrics"] == measured


def test_generate_and_evaluate_with_a_guide(stage2, classifier, tmp_path):
    """At scale 0 samples are the guide's own, and a guide's images are kept apart from those without."""
    pipeline = LatentDiffusionPipeline.from_pretrained(stage2 / "pipeline")
    with torch.no_grad():
        pipeline.denoiser.head.weight.normal_(std=0.3)
    pipeline.save_pretrained(tmp_path / "guide")

    def values(place, scale, *arguments):
        run(
            "sample/generate.py", place, "--per-class", 1, "--sampling.guidance_scale", scale, *arguments,
            "--out", tmp_path / "g.png", "--values", tmp_path / "values.npy",
        )  # fmt: skip
        return np.load(tmp_path / "values.npy")

    of_the_guide = values(tmp_path / "guide", 1)
    assert np.array_equal(values(stage2, 0, "--guide", tmp_path / "guide"), of_the_guide)
    assert not np.array_equal(values(stage2, 1, "--guide", tmp_path / "guide"), of_the_guide)

    metrics = ["--metrics", "agreement", "--classifier", classifier, "--num-images", 4, "--out", tmp_path / "e.json"]
    run("sample/evaluate.py", stage2, *metrics)
    run("sample/evaluate.py", stage2, *metrics, "--guide", tmp_path / "guide")
    assert json.loads((tmp_path / "e.json").read_text())["sampling"]["guide"]
    assert len(list((tmp_path / "evaluation").iterdir())) == 2


def test_incomparable_evaluations_are_refused(stage2, classifier, tmp_path, capsys):
    metrics = ["--metrics", "fd_classifier", "--classifier", classifier, "--num-images", 4]
    for arguments, message in (
        (["--region", "-1,-1,0,0"], "a part of an image cannot be compared with whole images"),
        (["--size", "16"], "its image_size is 8×8, but the samples have 16×16"),
    ):
        run("sample/evaluate.py", stage2, *metrics, *arguments, expect=2)
        assert message in capsys.readouterr().err


def test_renders_are_compared_with_a_larger_source(stage1, tmp_path):
    """PSNR against the images' own pixels at the render's size, for images that are large enough; digits are not."""
    random, sizes = np.random.default_rng(0), [(40, 40), (24, 60), (23, 40), (16, 16)]
    for number, size in enumerate(sizes):
        blocks = random.integers(0, 256, (size[0] // 4 + 1, size[1] // 4 + 1), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(blocks[: size[0], : size[1]]).save(tmp_path / "images" / f"{number}.png")
    arguments = [stage1, "--size", 24, "--out", tmp_path / "r.png"]
    run("sample/reconstruct.py", *arguments, "--source", tmp_path / "images", "--refine-steps", 2, "--batch-size", 3)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["source_images"] == {"num_images": 2, "indices": [0, 1]} and report["num_images"] == 4
    autoencoder = INRAutoencoder.from_pretrained(stage1 / "model").freeze()
    small, true = (
        torch.stack([resize_and_crop(Image.open(tmp_path / "images" / f"{n}.png"), (side, side)) for n in (0, 1)])
        for side in (8, 24)
    )
    rendered = autoencoder.render(autoencoder.encode(from_uint8(small)), size=24)
    for key, reference in (("psnr_24_source", from_uint8(true)), ("psnr_24", enlarge(from_uint8(small), 24))):
        values = psnr(rendered, reference)
        if key == "psnr_24_source":
            assert report["psnr_24_source_before"] == pytest.approx(float(values.mean()), abs=1e-3)
        assert report["refinement"][f"{key}_before"][:2] == pytest.approx(values.tolist(), abs=1e-3)
    assert abs(report["psnr_24_source_before"] - report["psnr_24_before"]) > 0.5
    bicubic = psnr(enlarge(from_uint8(small), 24), from_uint8(true))
    assert report["psnr_24_source_bicubic"] == pytest.approx(float(bicubic.mean()), abs=1e-3)
    assert 0 <= report["refinement"]["raised_24_source"] <= 2 and "ssim_24_source" in report
    for size in ("24x48", 8):  # a different crop; no enlargement
        run(
            "sample/reconstruct.py", stage1, "--source", tmp_path / "images", "--size", size,
            "--out", tmp_path / "r.png",
        )  # fmt: skip
        assert not any("source" in key for key in json.loads((tmp_path / "r.json").read_text()))
    run("sample/reconstruct.py", *arguments)
    assert not any("source" in key for key in json.loads((tmp_path / "r.json").read_text()))


def test_the_floor_uses_as_many_images_as_were_generated(stage2, classifier, tmp_path):
    """If the other split has fewer, it uses all of them and warns."""
    arguments = [stage2, "--metrics", "fd_classifier", "--classifier", classifier, "--reference", "train"]
    arguments += ["--images-folder", tmp_path / "images", "--out", tmp_path / "e.json", "--reference-images", 50]
    floors = {}
    for count in (100, 400):  # of 359 held-out digits
        with pytest.warns(UserWarning) as warnings:
            run("sample/evaluate.py", *arguments, "--num-images", count)
        few = "the floor uses only the 359 images of digits (held_out), fewer than the 400 generated"
        assert any(few in str(warning.message) for warning in warnings) == (count == 400)
        report = json.loads((tmp_path / "e.json").read_text())
        assert report["floor"]["num_images"] == min(count, 359) and report["num_images"] == count
        assert report["floor"]["fewer_than_generated"] == (count == 400)
        floors[count] = report["metrics"]["fd_floor"]
    train, held_out = (ImageData(ImageDataSpec(), split, (8, 8), 1) for split in ("train", "held_out"))
    chosen = (Chosen(data, evenly(len(data), count)) for data, count in ((held_out, 100), (train, 50)))
    network = ImageClassifier.from_pretrained(classifier / "model")
    assert floors[100] == pytest.approx(classifier_distance(network, held_out.signal, *chosen), rel=1e-4)
    assert floors[100] != pytest.approx(floors[400], rel=1e-3)
    assert (tmp_path / "images").is_dir() and not (tmp_path / "evaluation").exists()


def test_missing_inception_weights_are_found_before_drawing(stage2, tmp_path, capsys):
    def offline(*arguments, **options):
        raise urllib.error.URLError("name not known")

    (tmp_path / "text.pth").write_text("hello")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    for weights, message in (
        ([], "Inception weights could not be downloaded"),
        (["--inception-weights", tmp_path / "text.pth"], "not a weights file, or damaged"),
        (["--inception-weights", tmp_path / "other.pth"], "not the weights of torch-fidelity's Inception-v3"),
    ):
        with patch.object(inception_module, "load_state_dict_from_url", offline):
            run("sample/evaluate.py", stage2, "--num-images", 4, *weights, "--out", tmp_path / "e.json", expect=2)
        assert message in capsys.readouterr().err
        assert not (tmp_path / "evaluation").exists() and not (stage2 / "evaluation").exists()


def test_a_copied_pipeline_generates_the_same_samples(stage2, tmp_path):
    """Through the script and in Python, without arguments: the settings are saved with the pipeline."""
    shutil.copytree(stage2 / "pipeline", tmp_path / "copied")
    grids = []
    for place in (stage2, tmp_path / "copied"):
        run(
            "sample/generate.py", place, "--classes", "0-1", "--per-class", 2, "--seed", 3,
            "--out", tmp_path / "grid.png",
        )  # fmt: skip
        grids.append((tmp_path / "grid.png").read_bytes())
    assert grids[0] == grids[1]
    pipeline = LatentDiffusionPipeline.from_pretrained(tmp_path / "copied")
    assert pipeline.sampling_settings() == {
        "num_inference_steps": 2, "guidance_scale": 1.5, "guidance_interval": (0.0, 1.0),
    }  # fmt: skip
    images = pipeline([0, 0, 1, 1], generator=image_generators(3, range(4)), output_type="uint8").images
    save_png(picture_grid(images, 2), tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes() == grids[0]


def test_a_run_of_an_earlier_version_samples_and_resumes(stage1, stage2, tmp_path):
    """Its config has sampling.steps, and its pipeline was saved without sampling settings."""
    earlier = shutil.copytree(stage2, tmp_path / "diffusion")
    shutil.copytree(stage2.parent / "latents", tmp_path / "latents")
    config, index = earlier / "config.yaml", earlier / "pipeline" / "model_index.json"
    config.write_text(config.read_text().replace("num_inference_steps: 2", "steps: 2"))
    index.write_text(
        json.dumps({key: value for key, value in json.loads(index.read_text()).items() if key != "sampling"})
    )
    former = r"config.yaml: sampling.steps is now sampling.num_inference_steps$"
    generate = ["--classes", "0-1", "--per-class", 2, "--out", tmp_path / "grid.png"]
    with pytest.warns(FutureWarning, match=former):
        run("sample/generate.py", earlier, *generate)
    with pytest.warns(FutureWarning, match=former):
        run("train/diffusion.py", *diffusion(stage1, tmp_path), "--run.steps", 3)
    assert read_config(config)["sampling"]["num_inference_steps"] == 2
    assert json.loads(index.read_text())["sampling"]["num_inference_steps"] == 2


def test_scripts_compute_in_bf16(stage1, stage2, tmp_path):
    run(
        "sample/generate.py", stage2, "--classes", "0", "--per-class", 2, "--dtype", "bf16", "--out", tmp_path / "g.png"
    )
    run(
        "sample/reconstruct.py", stage1, "--num-images", 4, "--dtype", "bf16", "--refine-steps", 1,
        "--out", tmp_path / "r.png",
    )  # fmt: skip
    assert json.loads((tmp_path / "r.json").read_text())["num_images"] == 4
    run(
        "sample/locality.py", stage1, "--num-images", 2, "--num-tokens", 2, "--dtype", "bf16",
        "--out", tmp_path / "l.png",
    )  # fmt: skip
    assert 0 < json.loads((tmp_path / "l.json").read_text())["spread"] <= 1


def test_sizes_beyond_memory_are_refused(stage1, stage2, tmp_path, capsys):
    run("sample/generate.py", stage2, "--classes", "0", "--size", 10**6, "--out", tmp_path / "g.png", expect=2)
    assert "images of 1000000 × 1000000 pixels would take" in capsys.readouterr().err
    run("sample/reconstruct.py", stage1, "--num-images", 1, "--size", 10**6, "--out", tmp_path / "r.png", expect=2)
    assert "one render of 1000000 × 1000000 would take" in capsys.readouterr().err
