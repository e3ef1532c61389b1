"""train/compare.py: tables of several representations and of several fields, and its error messages."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genrep import INRAutoencoder
from genrep.data import ImageDataSpec
from genrep.data.images import ImageData
from genrep.data.signals import evenly
from genrep.metrics.reconstruction import reconstruction_psnr
from tests.scripts import LOCALITY, PROJECT, run


def small_comparison(folder: Path) -> list:
    """Write two YAMLs, and return the options of a comparison that takes seconds."""
    for name, decoder in (("one", "{type: ipc, hidden_dim: 16}"), ("two", "{hidden_dim: 16}")):
        (folder / f"{name}.yaml").write_text(
            f"base: {PROJECT}/configs/digits/locality.yaml\nautoencoder:\n  decoder: {decoder}\nrun: {{folder: x}}\n"
        )
    arguments = ["--folder", folder / "out", "--num-images", 10, *LOCALITY, "--autoencoder.latent_dim", 16]
    return [*arguments, "--run.steps", 4, "--run.evaluate_every", 2, folder / "one.yaml", folder / "two.yaml"]


def test_representations_are_compared_in_one_table(tmp_path):
    arguments = small_comparison(tmp_path)
    run("train/compare.py", *arguments)
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["one", "two"] and rows[0]["representation"] == [8, 16]
    held_out = ImageData(ImageDataSpec(), "held_out", (8, 8), 1)
    for row in rows:
        model = INRAutoencoder.from_pretrained(tmp_path / "out" / f"{row['name']}-seed0" / "model")
        assert row["decoder_parameters"] == sum(p.numel() for p in model.decoder.parameters())
        expected = reconstruction_psnr(model, held_out, evenly(len(held_out), 10)).mean()
        assert row["equal_images"] == 64 and row["psnr"] == pytest.approx(float(expected), abs=1e-4)
        assert row["psnr_by_seed"] == {"0": row["psnr"]} and row["num_images"] == 10 and row["curve_images"] == 20
    with Image.open(tmp_path / "out" / "comparison.png") as picture:
        assert picture.format == "PNG"
    assert "| two | " in (tmp_path / "out" / "comparison.md").read_text()


def without(arguments: list, option: str) -> list:
    place = arguments.index(option)
    return arguments[:place] + arguments[place + 2 :]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--run.seed", 3], "--run.seed: every run has its own; give --seeds"),
        (["--run.folder", "x"], "--run.folder: every run has its own; give --folder"),
        (["--num-images", 0], "must be a positive integer; got '0'"),
        (["one.yaml"], "two of the configs have the same file name"),
        (["other.yaml"], "one and other differ in data, so their PSNR cannot be compared"),
        (["wrong.yaml"], "wrong.yaml: run.stepss: unknown key"),
        (["longer.yaml"], "one and longer differ in run.steps"),
        (["batch.yaml"], "one and batch differ in run.batch"),
        (["misfit.yaml"], "autoencoder: decoder transinr does not fit 8 tokens"),
    ],
)
def test_an_invalid_comparison_stops_before_training(extra, message, tmp_path, capsys):
    arguments = small_comparison(tmp_path)
    (tmp_path / "other.yaml").write_text(f"base: {tmp_path}/one.yaml\ndata: {{held_out_fraction: 0.3}}\n")
    (tmp_path / "wrong.yaml").write_text(f"base: {tmp_path}/one.yaml\nrun: {{stepss: 3}}\n")
    (tmp_path / "batch.yaml").write_text(f"base: {tmp_path}/one.yaml\nrun: {{batch: 8}}\n")
    (tmp_path / "longer.yaml").write_text(f"base: {tmp_path}/one.yaml\nrun: {{steps: 8}}\n")
    (tmp_path / "misfit.yaml").write_text(
        f"base: {tmp_path}/one.yaml\nautoencoder: {{decoder: {{type: transinr, num_groups: 4, depth: 2, hidden_dim: 16}}}}\n"
    )
    if extra[0] in ("batch.yaml", "longer.yaml"):  # options would override these in all configs
        arguments = without(arguments, {"batch.yaml": "--run.batch", "longer.yaml": "--run.steps"}[extra[0]])
    extra = [tmp_path / word if str(word).endswith(".yaml") else word for word in extra]
    run("train/compare.py", *arguments, *extra, expect=2)
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_table_is_made_without_a_failed_run(tmp_path, capfd):
    arguments = small_comparison(tmp_path)
    (tmp_path / "two.yaml").write_text(f"base: {tmp_path}/one.yaml\noptimizer: {{lr: 1e30, clip_norm: null}}\n")
    run("train/compare.py", *arguments, expect=2)
    message = "two with seed 0 failed, see above. Re-running the command skips what is finished"
    assert message in capfd.readouterr().err
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["one"]


@pytest.mark.slow
def test_the_earlier_result_of_a_refused_run_is_not_in_the_table(tmp_path, capfd):
    arguments = small_comparison(tmp_path)
    run("train/compare.py", *arguments)
    (tmp_path / "two.yaml").write_text((tmp_path / "two.yaml").read_text() + "optimizer: {lr: 0.5}\n")
    run("train/compare.py", *arguments, expect=2)
    assert "optimizer.lr: was" in capfd.readouterr().err
    report = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["one"] and "--run.steps" in report["options"]
    assert report["configs"] == {"one": str(tmp_path / "one.yaml")}


@pytest.mark.slow
def test_fields_of_one_signal_are_compared_in_one_table(tmp_path, capsys):
    small = ["--signal.size", 16, "--run.steps", 4, "--run.evaluate_every", 2, "--folder", tmp_path]
    run("train/compare.py", "configs/camera/pe_mlp.yaml", "configs/camera/quad_tree.yaml", *small)
    rows = {row["name"]: row for row in json.loads((tmp_path / "comparison.json").read_text())["rows"]}
    assert [row["multiply_adds"] for row in rows.values()] == [35_008, 35_008]
    assert rows["quad_tree"]["parameters"] == 140_417 and rows["quad_tree"]["equal_images"] == 4
    assert "| quad_tree | " in (tmp_path / "comparison.md").read_text()
    with Image.open(tmp_path / "comparison.png") as picture:
        assert picture.format == "PNG"
    other = tmp_path / "other.yaml"
    other.write_text(f"base: {PROJECT}/configs/camera/quad_tree.yaml\nsignal: {{channels: 3}}\n")
    run("train/compare.py", "configs/camera/pe_mlp.yaml", other, *small, expect=2)
    assert "pe_mlp and other differ in signal" in capsys.readouterr().err
    other.write_text(f"base: {PROJECT}/configs/camera/quad_tree.yaml\nfitting: {{num_coords: 100}}\n")
    run("train/compare.py", "configs/camera/pe_mlp.yaml", other, *small, expect=2)
    assert "pe_mlp and other differ in fitting.num_coords" in capsys.readouterr().err


def test_fields_are_compared_over_several_signals(tmp_path, capsys):
    for name, colour in (("dark", 40), ("light", 200)):
        pixels = np.random.default_rng(colour).integers(colour - 40, colour + 40, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    sources = ["--sources", tmp_path / "dark.png", tmp_path / "light.png"]
    small = ["--run.steps", 2, "--signal.size", 12, "--folder", tmp_path / "out"]
    words = ["configs/camera/pe_mlp.yaml", "configs/camera/quad_tree.yaml", *small, *sources]
    run("train/compare.py", *words)
    report = (tmp_path / "out" / "comparison.json").read_text()
    rows = json.loads(report)["rows"]
    for row in rows:
        signals = row["metrics_by_signal"]
        assert list(signals) == ["dark", "light"] and signals["dark"] != signals["light"]
        assert row["psnr"] == pytest.approx((signals["dark"]["psnr"] + signals["light"]["psnr"]) / 2)
        assert row["ssim"] == pytest.approx((signals["dark"]["ssim"] + signals["light"]["ssim"]) / 2)
    assert "Means over 2 signals: dark, light." in (tmp_path / "out" / "comparison.md").read_text()
    before = (tmp_path / "out" / "quad_tree-light-seed0" / "metrics.jsonl").stat().st_mtime_ns
    capsys.readouterr()
    run("train/compare.py", *words)
    assert capsys.readouterr().out.count("finished before") == 4
    assert (tmp_path / "out" / "comparison.json").read_text() == report
    assert (tmp_path / "out" / "quad_tree-light-seed0" / "metrics.jsonl").stat().st_mtime_ns == before
    for extra, message in (
        (["--signal.source", "a.png"], "--signal.source: every run has its own with --sources; leave it out"),
        (["--sources", "a/x.png", "b/x.png"], "two of the --sources have the same file name"),
    ):
        run("train/compare.py", *words, *extra, expect=2)
        assert message in capsys.readouterr().err
    run("train/compare.py", "configs/digits/anr.yaml", "--folder", tmp_path / "no", "--sources", "a", expect=2)
    assert "--sources is for fields, which have one signal" in capsys.readouterr().err


@pytest.mark.slow
def test_gaps_are_compared_with_the_published_ones(tmp_path, capsys):
    published = tmp_path / "published.json"
    small = ["--signal.size", 16, "--run.steps", 4, "--run.evaluate_every", 2, "--folder", tmp_path / "out"]
    words = ["configs/camera/pe_mlp.yaml", "configs/camera/quad_tree.yaml", *small, "--published", published]
    for text, message in (
        ("{", "published.json must be a JSON file like"),
        ('{"quad_tree": 3}', "must hold the PSNR of pe_mlp, the first config"),
        ('{"pe_mlp": "3"}', "must hold the PSNR of pe_mlp"),
        ("[3]", "must hold the PSNR of pe_mlp"),
    ):
        published.write_text(text)
        run("train/compare.py", *words, expect=2)
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    published.write_text('{"pe_mlp": 31.38, "quad_tree": 40.55}')
    run("train/compare.py", *words)
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    gap = rows[1]["psnr"] - rows[0]["psnr"]
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert [row["published"] for row in rows] == [31.38, 40.55]
    assert f"| quad_tree | {rows[1]['psnr']:.2f} | {gap:.2f} | 40.55 | 9.17 | " in text
    assert len({line.count("|") for line in text.splitlines()}) == 1
    with Image.open(tmp_path / "out" / "gaps.png") as picture:
        assert picture.format == "PNG"
