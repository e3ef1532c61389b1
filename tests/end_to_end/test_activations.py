"""sample/activations.py: pictures of every layer of a field, and its error messages."""

import json

import pytest
from PIL import Image

from genrep import NeuralField
from tests.scripts import run

SCONE = {"type": "scone", "widths": [6, 5], "omegas": [9.0, 5.0]}


@pytest.mark.parametrize("shape", [(8, 12), (3, 8, 12)])
def test_activations_are_drawn_layer_by_layer(shape, tmp_path, capsys):
    NeuralField(SCONE, shape, 1).save_pretrained(tmp_path / "model")
    out = tmp_path / "activations.png"
    run("sample/activations.py", tmp_path / "model", "--num-units", 5, "--columns", 4, "--out", out)
    layers = json.loads(out.with_suffix(".json").read_text())["layers"]
    assert list(layers) == [f"{part} {number}" for number in (1, 2) for part in ("mask", "basis", "layer")]
    assert layers["mask 1"]["low"] == 0 and layers["mask 1"]["high"] == 1 and -1 <= layers["basis 2"]["low"] < 0
    assert "basis 2: mean" in capsys.readouterr().out
    with Image.open(out) as picture:  # 8×12 pixels enlarged 8 times, 2 rows of 4, gaps of 2, a line of text
        assert picture.size == (4 * 96 + 5 * 2, 6 * (2 * 64 + 3 * 2 + 16))


def test_the_middle_frame_of_a_video_is_drawn(tmp_path):
    NeuralField(SCONE, (3, 8, 8), 1).save_pretrained(tmp_path / "model")
    for size, name in (("3x8x8", "video"), ("1x8x8", "frame")):
        run("sample/activations.py", tmp_path / "model", "--size", size, "--out", tmp_path / f"{name}.png")
    with Image.open(tmp_path / "video.png") as video, Image.open(tmp_path / "frame.png") as frame:
        assert video.tobytes() == frame.tobytes()  # both at t = 0


def test_activations_of_a_curve_are_refused(tmp_path, capsys):
    NeuralField(SCONE, (40,), 1).save_pretrained(tmp_path / "model")
    run("sample/activations.py", tmp_path / "model", "--out", tmp_path / "none.png", expect=2)
    assert "the signal must be an image or a video; it has 1 axes" in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()


def test_activations_of_an_image_have_no_frames(tmp_path, capsys):
    NeuralField(SCONE, (8, 8), 1).save_pretrained(tmp_path / "model")
    run("sample/activations.py", tmp_path / "model", "--size", "3x8x8", "--out", tmp_path / "none.png", expect=2)
    assert "--size must be 2 positive integers, as in 8x8; got '3x8x8'" in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()
