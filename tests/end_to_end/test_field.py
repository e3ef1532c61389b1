"""train/field.py and sample/render.py: fitting, resuming, many processes, rendering, mistakes."""

import sys

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors.torch import load_file

from genrep import NeuralField
from genrep.data.single import PictureSourceSpec
from genrep.data.single.pictures import open_pictures
from genrep.metrics.reconstruction import frames, quality
from genrep.render import from_uint8
from tests.scripts import PROJECT, launch, lines, run

SMALL = [
    "configs/camera/quad_tree.yaml", "--signal.size", 32, "--field.widths", "[16, 16, 16]",
    "--run.report_every", 1,
]  # fmt: skip


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("field") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run("train/field.py", *SMALL, "--run.steps", 150, "--run.evaluate_every", 50, "--run.folder", folder)
    return folder


def test_a_field_learns_its_signal_and_is_saved(fitted):
    curve = [row["psnr"] for row in lines(fitted) if "psnr" in row]
    assert len(curve) == 3 and curve[-1] > curve[0] and curve[-1] > 20
    assert all(0 < row["ssim"] <= 1 for row in lines(fitted) if "ssim" in row)
    assert not any("psnr_std" in row for row in lines(fitted)), "an image has no standard deviation over frames"
    assert NeuralField.from_pretrained(fitted / "model").shape == (32, 32)
    with Image.open(fitted / "samples" / "step-00000150.png") as picture:
        assert picture.size == (3 * 96 + 4 * 2, 96 + 2 * 2)  # render, signal and error, three times as large


def test_weight_tiles_improve_the_fit(fitted, tmp_path):
    plain = ["configs/camera/pe_mlp.yaml", *SMALL[1:]]
    run("train/field.py", *plain, "--run.steps", 150, "--run.folder", tmp_path / "plain")
    assert lines(fitted)[-1]["psnr"] > lines(tmp_path / "plain")[-1]["psnr"] + 1


@pytest.mark.parametrize("num_coords", ["null", 100])
def test_a_resumed_field_equals_an_uninterrupted_one(tmp_path, num_coords):
    for name, steps in (("straight", 4), ("resumed", 2), ("resumed", 4)):
        options = ["--fitting.num_coords", num_coords, "--run.steps", steps, "--run.folder", tmp_path / name]
        run("train/field.py", *SMALL, "--optimizer.schedule", "constant", *options)
    straight, resumed = (
        load_file(tmp_path / name / "checkpoints/step-00000004/model.safetensors") for name in ("straight", "resumed")
    )
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_two_processes_fit_like_one(tmp_path):
    for folder, start in ((tmp_path / "one", run), (tmp_path / "two", lambda *a: launch(2, *a))):
        odd = ["--fitting.num_coords", 129, "--fitting.chunk", 64]  # 65 and 64 points
        start("train/field.py", *SMALL, *odd, "--run.steps", 3, "--run.folder", folder)
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, abs=1e-4, rel=1e-4)


NETWORKS = {
    "siren": ["--field.widths", "[12, 10]"],
    "fourier": ["--field.hidden_dim", 12, "--field.num_features", 10],
    "gabor": ["--field.widths", "[12, 10]", "--field.input_scale", 16],
    "wire": ["--field.widths", "[12, 10]"],
    "scone": ["--field.widths", "[12, 10]", "--field.omegas", "[9.0, 5.0]", "--field.learn_input_scale", "true"],
}


def of_network(name: str) -> list[object]:
    """A small run of this network, in chunks that begin and end within a row."""
    small = ["--signal.size", 16, "--fitting.chunk", 100, "--run.report_every", 1, "--optimizer.schedule", "constant"]
    return ["configs/camera/quad_tree.yaml", *small, "--field.type", name, *NETWORKS[name]]


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_and_its_average_resume_bit_for_bit(name, tmp_path):
    for folder, steps in (("straight", 4), ("resumed", 2), ("resumed", 4)):
        options = ["--ema.decay", 0.9, "--run.steps", steps, "--run.folder", tmp_path / folder]
        run("train/field.py", *of_network(name), *options)
    for part in ("model", "average"):
        one, two = (
            load_file(tmp_path / folder / f"checkpoints/step-00000004/{part}.safetensors")
            for folder in ("straight", "resumed")
        )
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    model = load_file(tmp_path / "straight" / "model" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(two[key], model[key]) for key in two), "the model that is saved is the average"
    assert any(not torch.equal(two[key], weight) for key, weight in trained_weights(tmp_path / "straight").items())


def trained_weights(folder):
    """The trained weights of the last checkpoint, without buffers."""
    weights = load_file(folder / "checkpoints/step-00000004/model.safetensors")
    return {key: weight for key, weight in weights.items() if not key.endswith("frequencies")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wire", "scone"])
def test_two_processes_average_the_gradients_of(name, tmp_path):
    """Of complex weights as two real parts, and of SCONE's own backward pass; 257 points are 129 and 128."""
    for folder, start in ((tmp_path / "one", run), (tmp_path / "two", lambda *a: launch(2, *a))):
        start(
            "train/field.py", *of_network(name), "--fitting.num_coords", 257, "--run.steps", 3, "--run.folder", folder
        )
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("num_coords", ["null", 300])
def test_chunks_do_not_change_the_result(tmp_path, num_coords):
    for name, chunk in (("whole", 2000), ("parts", 100)):
        options = ["--fitting.num_coords", num_coords, "--fitting.chunk", chunk, "--run.folder", tmp_path / name]
        run("train/field.py", *SMALL, *options, "--run.steps", 3)
    for one, two in zip(lines(tmp_path / "whole"), lines(tmp_path / "parts"), strict=True):
        assert one == pytest.approx(two, abs=1e-4, rel=1e-4)


def test_the_learning_rate_drops_after_half_of_the_steps(tmp_path):
    run("train/field.py", *SMALL, "--run.steps", 4, "--run.folder", tmp_path)
    assert [row["lr"] for row in lines(tmp_path) if "lr" in row] == [5e-3, 5e-3, 5e-4, 5e-4]


def test_a_field_renders_at_any_size_and_region(fitted, tmp_path, capsys):
    run("sample/render.py", fitted, "--size", 64, "--out", tmp_path / "whole.png")
    run("sample/render.py", fitted, "--size", "32x16", "--region", "-1,-1,1,0", "--out", tmp_path / "part.png")
    with Image.open(tmp_path / "whole.png") as whole, Image.open(tmp_path / "part.png") as part:
        assert whole.size == (64, 64) and part.size == (16, 32)
    for option, value, message in (
        ("--size", "0", "--size must be a positive integer, or one per axis as in 48x64 (height × width); got '0'"),
        ("--size", "4x4x4", "--size must be 2 positive integers"),
        ("--region", "0,0,1", "--region must be 4 numbers separated by commas; got '0,0,1'"),
        ("--region", "1,1,0,0", "region must have every start below its end"),
    ):
        run("sample/render.py", fitted, option, value, "--out", tmp_path / "none.png", expect=2)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()


def test_a_video_is_fitted_and_rendered_as_frames(tmp_path):
    (tmp_path / "frames").mkdir()
    for number in range(3):
        array = np.random.default_rng(number).integers(0, 256, (12, 14, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / "frames" / f"{number}.png")
    options = ["--signal.source", tmp_path / "frames", "--signal.size", "null", "--run.folder", tmp_path / "run"]
    run("train/field.py", *SMALL, *options, "--run.steps", 2)
    field = NeuralField.from_pretrained(tmp_path / "run" / "model")
    assert field.shape == (3, 12, 14)
    video = open_pictures(PictureSourceSpec(source=str(tmp_path / "frames"))).kept
    by_frame = quality(frames(field.render()), from_uint8(frames(video)))
    (line,) = (row for row in lines(tmp_path / "run") if "psnr" in row)
    for name, values in by_frame.items():
        assert line[name] == pytest.approx(float(np.mean(values.tolist())), rel=1e-4)
        assert (
            line[f"{name}_std"] == pytest.approx(float(np.std(values.tolist())), rel=1e-2) and line[f"{name}_std"] > 0
        )
    with Image.open(tmp_path / "run" / "samples" / "step-00000002.png") as picture:  # a row for each of three frames
        assert picture.size == (3 * 98 + 4 * 2, 3 * 84 + 4 * 2)
    run("sample/render.py", tmp_path / "run", "--size", "5x8x8", "--out", tmp_path / "film.png")
    assert len(list((tmp_path / "film").glob("*.png"))) == 5


def test_a_field_is_not_resumed_at_another_size(fitted, capsys):
    resume = ["--signal.size", 24, "--run.folder", fitted, "--run.steps", 151]
    run("train/field.py", *SMALL, *resume, expect=2)
    assert "signal.size: was 32, is now 24" in capsys.readouterr().err


def test_the_dry_run_reports_the_size_of_the_run(capsys, tmp_path):
    run("train/field.py", "configs/camera/quad_tree.yaml", "--dry-run", "--run.folder", tmp_path / "none")
    output = capsys.readouterr().out
    assert "140,417 parameters, 35,008 multiply-adds per point" in output and "262,144 points" in output
    assert not (tmp_path / "none").exists()


SHAPE = """
signal:
  type: shape
  source: {}
  grid_size: 16
  num_surface_points: 500
field:
  type: positional_mlp
  widths: [16, 16]
  num_frequencies: 2
fitting:
  num_coords: 201
optimizer:
  lr: 5e-3
run:
  folder: x
  batch: 1
  steps: 4
  report_every: 1
"""


@pytest.fixture
def shape(tmp_path):
    trimesh.creation.icosphere(2).export(tmp_path / "ball.ply")
    (tmp_path / "shape.yaml").write_text(SHAPE.format(tmp_path / "ball.ply"))
    return tmp_path / "shape.yaml"


def test_a_shape_is_fitted_measured_and_resumed_exactly(shape, tmp_path):
    for name, steps in (("straight", 60), ("resumed", 25), ("resumed", 60)):
        run("train/field.py", shape, "--run.steps", steps, "--run.folder", tmp_path / name)
    straight, resumed = (
        load_file(tmp_path / name / "checkpoints/step-00000060/model.safetensors") for name in ("straight", "resumed")
    )
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    last = lines(tmp_path / "straight")[-1]
    assert last["iou"] > 0.5 and last["chamfer"] < 0.3
    assert trimesh.load(tmp_path / "straight" / "mesh.ply").bounds.mean(0) == pytest.approx(np.zeros(3), abs=0.2)
    assert NeuralField.from_pretrained(tmp_path / "straight" / "model").signal.spec.type == "distance"
    with Image.open(tmp_path / "straight" / "samples" / "step-00000060.png") as picture:
        assert picture.size == (3 * 320 + 4 * 2, 320 + 2 * 2)


@pytest.mark.slow
def test_two_processes_fit_a_shape_like_one(shape, tmp_path):
    for folder, start in ((tmp_path / "one", run), (tmp_path / "two", lambda *a: launch(2, *a))):
        start("train/field.py", shape, "--fitting.chunk", 64, "--run.steps", 3, "--run.folder", folder)
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, abs=1e-4, rel=1e-4)


def test_the_aliasing_demonstration_runs(tmp_path):
    small = ["--field.widths", "[32, 32]", "--run.steps", 3, "--run.evaluate_every", 3]
    for name in ("without", "with", "interpolated"):
        run("train/field.py", f"configs/aliasing/{name}.yaml", *small, "--run.folder", tmp_path / name)
        (line,) = (row for row in lines(tmp_path / name) if "psnr" in row)
        assert {"psnr", "rmse", "psnr_between", "rmse_between"} < line.keys()
    losses = [lines(tmp_path / name)[0]["loss"] for name in ("without", "with", "interpolated")]
    assert len(set(losses)) == 3


def test_a_missing_video_package_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"0")
    run("train/field.py", *SMALL, "--signal.source", tmp_path / "a.mp4", "--run.folder", tmp_path / "run", expect=2)
    assert 'train/field.py needs av, which is not installed: pip install "genrep[video]"' in capsys.readouterr().err
