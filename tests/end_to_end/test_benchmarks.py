"""The benchmarks run and agree with their plain versions; their times are not tested."""

import json
import re

import pytest

from tests.scripts import run


def test_the_expert_linear_benchmark(capsys):
    run(
        "benchmarks/expert_linear.py", "--side", 16, "--loop-side", 8, "--gather-side", 4, "--channels", 8,
        "--tiles", 2, 4, "--runs", 1,
    )  # fmt: skip
    rows = [row for row in capsys.readouterr().out.splitlines() if "× dense" in row]
    assert len(rows) == 4 and all(re.search(r"ours +[\d.]+ .*loop +[\d.]+ .*gather +[\d.]+", row) for row in rows)


def test_the_render_benchmark_agrees_with_its_plain_version(capsys):
    for representation in ("anr", "locality"):
        run("benchmarks/render.py", "--representation", representation, "--size", 16, "--runs", 1)
        error = re.search(r"largest difference ([\d.e+-]+)", capsys.readouterr().out)
        assert error and float(error[1]) < 1e-4


@pytest.mark.parametrize("tokens", [4, 257])
def test_the_data_benchmark_agrees_with_its_plain_version(capsys, tokens):
    """With noise drawn in blocks of many rows, and with one block per row."""
    small = [
        "--batch", 8, "--tokens", tokens, "--latent-dim", 256, "--images", 20, "--steps", 3, "--step", 1,
        "--runs", 1,
    ]  # fmt: skip
    run("benchmarks/data.py", *small)
    output = capsys.readouterr().out
    assert "data equal to the plain variant's" in output
    assert len(re.findall(r"ours, [02] workers +[\d.]+ ms .* images/s +[\d.]+ × plain", output)) == 2


def test_the_refinement_benchmark(locality, tmp_path):
    run("benchmarks/refinement.py", locality, "--source", "digits", "--num-images", 2, "--steps", 3, "--out", tmp_path)
    report = json.loads((tmp_path / "refinement.json").read_text())
    assert report["num_images"] == 2 and (tmp_path / "refinement.png").exists()


def test_the_benchmark_of_scone_and_wire_agrees_with_plain_versions(capsys):
    run("benchmarks/scone.py", "--widths", 8, "--side", 16, "--chunks", "64,128", "--runs", 1)
    report = capsys.readouterr().out
    errors = re.findall(r"difference of values ([\d.e+-]+), of gradients ([\d.e+-]+)", report)
    assert len(errors) == 2 and all(float(error) < 1e-4 for pair in errors for error in pair)
    assert all(re.search(rf"^  {name} .* × siren", report, re.M) for name in ("siren", "scone", "wire", "plain wire"))
