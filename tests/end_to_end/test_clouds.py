"""Anchored clouds through the scripts: training the decoder, caching fits, stage 2, reconstruction, refinement."""

import json
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from genrep.data.latents import LatentCache
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.normalizer import LatentNormalizer
from genrep.refine import refine
from genrep.specs import validate
from genrep.training.config import read_config
from genrep.training.folders import load_autoencoder, run_data
from genrep.training.specs import AutoencoderRun, CloudRun
from tests.scripts import PROJECT, SMALL_DENOISER, launch, lines, run

SMALL = [
    "configs/digits/arc.yaml", "--autoencoder.encoder.steps", 20, "--autoencoder.encoder.draws", 2, "--autoencoder.decoder.hidden_dim", 16,
    "--run.batch", 12, "--run.report_every", 1, "--run.evaluate_images", 20,
]  # fmt: skip


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    """A decoder trained for 60 steps with the clouds of twelve digits."""
    folder = tmp_path_factory.mktemp("clouds") / "arc"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run("train/clouds.py", *SMALL, "--run.steps", 60, "--run.folder", folder)
    return folder


def stage2(clouds, folder, *more):
    return [
        "configs/digits/diffusion_arc.yaml", *SMALL_DENOISER, "--autoencoder", clouds, "--latents.folder", folder / "latents",
        "--run.folder", folder / "diffusion", "--run.batch", 16, "--run.evaluate_images", 20, "--sampling.num_inference_steps", 2, *more,
    ]  # fmt: skip


def test_training_lowers_the_loss_and_reports_psnr(clouds):
    rows = lines(clouds)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 60 and losses[-1] < 0.5 * losses[0]
    assert rows[-1]["held_out_images"] == 20 and rows[-1]["psnr"] > 8
    assert (clouds / "samples" / "step-00000060.png").exists()


def test_a_resumed_run_equals_a_straight_one(tmp_path):
    for name, steps in (("straight", 6), ("resumed", 3), ("resumed", 6)):
        constant = ["--optimizer.schedule", "constant", "--latent_noise", 0.3, "--run.steps", steps]
        run("train/clouds.py", *SMALL, *constant, "--run.folder", tmp_path / name)
    straight, resumed = (
        load_file(tmp_path / name / "checkpoints" / "step-00000006" / "model.safetensors")
        for name in ("straight", "resumed")
    )
    assert straight.keys() == resumed.keys() and all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_clouds_are_cached_and_generated(clouds, tmp_path):
    arguments = stage2(clouds, tmp_path)
    run("train/latents.py", *arguments)
    cache = LatentCache(tmp_path / "latents")
    assert cache.manifest["latent_shape"] == [24, 10] and cache.mean.shape == (1, 10) and cache.masks([0]) is None
    run("train/diffusion.py", *arguments, "--run.steps", 2, "--denoiser.position_scale", 3)
    normalizer = LatentNormalizer.from_pretrained(tmp_path / "diffusion" / "pipeline" / "normalizer")
    torch.testing.assert_close(cache.std / normalizer.std, torch.tensor([[3.0] * 2 + [1.0] * 8]))
    run("sample/generate.py", tmp_path / "diffusion", "--classes", "0-2", "--per-class", 2, "--size", 24,
        "--out", tmp_path / "grid.png")  # fmt: skip
    assert (tmp_path / "grid.png").exists()


def test_a_cache_of_masked_clouds_equals_separate_fits(clouds, tmp_path):
    model = INRAutoencoder.from_pretrained(clouds / "model")
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    masked = INRAutoencoder(**{**config, "encoder": {**config["encoder"], "flat": "masked"}, "num_tokens": 60})
    masked.decoder.load_state_dict(model.decoder.state_dict())
    masked.save_pretrained(tmp_path / "model")
    arguments = stage2(tmp_path / "model", tmp_path, "--latents.held_out", "false", "--data.train_split", "train[:40]")
    arguments += ["--latents.shard_size", 16, "--latents.batch", 8, "--latents.fits", 2]
    run("train/latents.py", *arguments)
    cache = LatentCache(tmp_path / "latents")
    masks, latents = cache.masks(range(len(cache))), cache.latents(range(len(cache)))
    assert masks is not None and 4 <= masks.sum(1).min() < 60
    data = run_data(clouds).model_copy(update={"train_split": "train[:40]"}).open("train", (8, 8), 1)
    for k in (0, 9, 30):
        refitted, mask = masked.freeze().encode_set(data.signal.values(data.read([k])))
        assert torch.equal(mask[0], masks[k])
        torch.testing.assert_close(refitted[0], latents[k], atol=1e-4, rtol=1e-3)
        refitted, mask = masked.encode_set(data.signal.values(data.read([k])), fit=1)
        assert torch.equal(mask[0], cache.masks([k], [1])[0])
        torch.testing.assert_close(refitted[0], cache.latents([k], [1])[0], atol=1e-4, rtol=1e-3)
    run("train/diffusion.py", *arguments, "--run.steps", 2)
    saved = json.loads((tmp_path / "diffusion" / "pipeline" / "model_index.json").read_text())["token_counts"]
    assert {int(size): sets for size, sets in saved.items()} == cache.token_counts
    run("sample/generate.py", tmp_path / "diffusion", "--classes", "0-2", "--per-class", 2, "--num-tokens", "data",
        "--out", tmp_path / "grid.png")  # fmt: skip


def test_a_resumed_cache_has_the_same_bytes(clouds, tmp_path):
    for name in ("straight", "resumed"):
        run("train/latents.py", *stage2(clouds, tmp_path / name), "--latents.shard_size", 500)
    shards = sorted((tmp_path / "resumed" / "latents").glob("latents-*.safetensors"))
    (tmp_path / "resumed" / "latents" / "manifest.json").rename(tmp_path / "resumed" / "latents" / "unfinished.json")
    written = {path.name: path.read_bytes() for path in shards}
    shards[1].unlink()
    run("train/latents.py", *stage2(clouds, tmp_path / "resumed"), "--latents.shard_size", 500)
    assert {path.name: path.read_bytes() for path in shards} == written


def test_the_dry_run_prints_the_size_of_all_fits(clouds, tmp_path, capsys):
    run("train/latents.py", *stage2(clouds, tmp_path), "--latents.fits", 20, "--latents.flips", "true", "--dry-run")
    out = capsys.readouterr().out
    assert "24 tokens of 10, 40 view(s); 0.0384 MB per signal in the cache" in out  # 40 · 24 · 10 · 4 bytes
    assert "latents: 1,438 signals, 55.22 MB" in out


def test_several_fits_of_a_network_are_refused_before_any_work(clouds, tmp_path, capsys):
    several = ["--latents.fits", 2, "--autoencoder", "runs/digits/anr"]
    message = (
        "latents.fits must be 1 for encoder cross_attention, a network, which gives a signal only one encoding; got 2"
    )
    for script in ("latents", "diffusion"):
        run(f"train/{script}.py", "configs/digits/diffusion.yaml", *several, "--dry-run", expect=2)
        assert message in capsys.readouterr().err
    run("train/diffusion.py", *stage2(clouds, tmp_path), "--latents.fits", 2, "--latents.folder", "null", expect=2)
    assert "latents: fits must be 1 without a latent cache, because every fit takes hundreds" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_write_the_same_cache_as_one(clouds, tmp_path):
    run("train/latents.py", *stage2(clouds, tmp_path / "one"), "--latents.shard_size", 500)
    launch(2, "train/latents.py", *stage2(clouds, tmp_path / "two"), "--latents.shard_size", 500)
    for path in (tmp_path / "one" / "latents").glob("latents-*.safetensors"):
        assert path.read_bytes() == (tmp_path / "two" / "latents" / path.name).read_bytes()


def test_reconstruction_refinement_and_locality_of_clouds(clouds, tmp_path):
    run("sample/reconstruct.py", clouds, "--num-images", 4, "--refine-steps", 20, "--out", tmp_path / "refined.png")
    report = json.loads((tmp_path / "refined.json").read_text())
    assert report["psnr_32"] > report["psnr_32_before"]
    run("sample/locality.py", clouds, "--num-images", 2, "--out", tmp_path / "locality.png")
    report = json.loads((tmp_path / "locality.json").read_text())
    assert 0 < report["spread"] < 0.9 and min(report["largest_difference_of_tokens"].values()) > 0


def test_refinement_does_not_move_anchors(clouds):
    model = load_autoencoder(str(clouds))
    data = run_data(clouds).open("held_out", (8, 8), 1)
    values = data.signal.values(data.read([0, 1]))
    (_, refined), latents = refine(model, values, 5), model.encode(values)
    assert torch.equal(refined[..., :2], latents[..., :2])
    assert not torch.allclose(refined[..., 2:], latents[..., 2:], atol=1e-3)


def test_the_wrong_script_names_the_right_one(tmp_path):
    clouds, anr = (read_config(PROJECT / "configs" / "digits" / f"{name}.yaml") for name in ("arc", "anr"))
    with pytest.raises(InputError, match=r"encoder fit, which has no network: train its decoder with train/clouds.py"):
        validate(AutoencoderRun, clouds)
    anr = {key: anr[key] for key in ("autoencoder", "run")}
    with pytest.raises(InputError, match=r"must be of type fit.*got cross_attention: use train/autoencoder.py"):
        validate(CloudRun, anr)
    for key, value in (("accumulation", 2), ("compile", True)):
        with pytest.raises(InputError, match="run.accumulation must be 1 and run.compile false for train/clouds.py"):
            validate(CloudRun, {**clouds, "run": {**clouds["run"], key: value}})
    with pytest.raises(InputError, match=r"train it first: python train/clouds.py configs/digits/arc.yaml"):
        load_autoencoder("runs/digits/arc", "configs/digits/diffusion_arc.yaml")


def test_a_batch_larger_than_the_data_is_refused(tmp_path, capsys):
    run("train/clouds.py", *SMALL, "--run.batch", 2000, "--run.folder", tmp_path / "arc", "--run.steps", 1, expect=2)
    assert "run.batch must be at most 1438, the images of digits (train)" in capsys.readouterr().err


@pytest.mark.slow
def test_training_with_two_processes_is_refused(tmp_path):
    with pytest.raises(AssertionError, match="train/clouds.py must be started with one process; got 2"):
        launch(2, "train/clouds.py", *SMALL, "--run.folder", tmp_path / "arc", "--run.steps", 1)


def test_all_ways_of_the_benchmark_have_the_same_psnr(capsys):
    run("benchmarks/cloud_fit.py", "--num-images", 3, "--size", 10, "--steps", 5, "--rounds", 1)
    output = capsys.readouterr().out
    decibels = set(re.findall(r"([\d.]+) dB", output))
    assert output.count("images/s") == 3 and len(decibels) == 1


def test_the_benchmark_of_a_large_image_fits_and_renders_it(clouds, tmp_path, capsys):
    gradient = torch.arange(40, dtype=torch.uint8).mul(6).expand(30, 40)
    Image.fromarray(gradient.numpy()).save(tmp_path / "gradient.png")
    run("benchmarks/large_cloud.py", "--run", clouds, "--image", tmp_path / "gradient.png", "--steps", 100)
    output = capsys.readouterr().out
    assert "30 × 40 pixels, 0.0 megapixels, 60 anchors" in output
    assert float(re.search(r"100 steps: PSNR ([\d.]+) dB", output)[1]) > 15, output
    run("benchmarks/large_cloud.py", "--megapixels", 0.01, "--no-fit")
    assert "498 anchors" in capsys.readouterr().out
    run("benchmarks/large_cloud.py", "--image", tmp_path / "missing.png", expect=2)
    assert "missing.png' does not exist" in capsys.readouterr().err
