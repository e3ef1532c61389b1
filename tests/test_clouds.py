"""Edits of clouds in closed form, and the script that renders them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from genrep.clouds import moved, scaled, stacked, turned, within
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from tests.scripts import run
from tests.tiny import tiny_autoencoder

CLOUD = torch.tensor([[[0.0, 0.5, 7.0], [-0.25, -1.0, 8.0]]])
"""Two anchors, (y, x) and a feature of one number."""


def test_edits_move_anchors_and_keep_features():
    assert moved(CLOUD, (0.5, -0.25)).tolist() == [[[0.5, 0.25, 7.0], [0.25, -1.25, 8.0]]]
    assert scaled(CLOUD, (2, -1)).tolist() == [[[0.0, -0.5, 7.0], [-0.5, 1.0, 8.0]]]
    assert CLOUD[0, 0].tolist() == [0.0, 0.5, 7.0]


def test_rotation_is_in_pixels():
    """A point right of the centre moves up; in an image twice as wide as high, twice as far in coordinates."""
    torch.testing.assert_close(turned(CLOUD, 90, (8, 8))[0, 0], torch.tensor([-0.5, 0.0, 7.0]))
    torch.testing.assert_close(turned(CLOUD, 90, (8, 16))[0, 0], torch.tensor([-1.0, 0.0, 7.0]))
    torch.testing.assert_close(turned(turned(CLOUD, 30, (5, 9)), -30, (5, 9)), CLOUD)


def test_within_and_stacked():
    mask = within(CLOUD, (-1, -1, 1, 0))
    assert mask.tolist() == [[False, True]]
    latents, joined_mask = stacked([(CLOUD, mask), (2 * CLOUD, None)])
    assert torch.equal(latents, torch.cat([CLOUD, 2 * CLOUD], dim=1))
    assert joined_mask.tolist() == [[False, True, True, True]]
    with pytest.raises(InputError, match="region must have every start below its end"):
        within(CLOUD, (1, 0, 0, 1))


def cloud_run(folder, autoencoder):
    autoencoder.save_pretrained(folder / "model")
    (folder / "config.yaml").write_text("data:\n  source: digits\n", encoding="utf-8")
    return folder


def test_the_script_renders_edited_clouds(tmp_path):
    torch.manual_seed(0)
    encoder = {"type": "fit", "steps": 20, "lr": 0.05, "flat": "masked"}
    autoencoder = INRAutoencoder(encoder, {"type": "anchored"}, 8, 1, 40, 6)
    run("sample/clouds.py", cloud_run(tmp_path, autoencoder), "--num-images", 3, "--out", tmp_path / "clouds.png")
    report = json.loads((tmp_path / "clouds.json").read_text())
    assert len(report["columns"]) == 9 and report["psnr_moved"] > 60 > report["psnr"]


def test_hiding_and_joining_leave_enough_anchors(tmp_path, capsys):
    """Images with an edge at one side only: with `masked`, all of their anchors are there."""
    torch.manual_seed(0)
    encoder = {"type": "fit", "steps": 2, "flat": "masked"}
    autoencoder = INRAutoencoder(encoder, {"type": "anchored"}, 8, 1, 12, 6)
    for index in range(3):
        pixels = np.zeros((8, 8), dtype=np.uint8)
        pixels[:, 7] = 255
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    folder = cloud_run(tmp_path, autoencoder)
    (folder / "config.yaml").write_text(
        f"data:\n  source: {tmp_path / 'images'}\n  held_out_split: train\n", encoding="utf-8"
    )
    run("sample/clouds.py", folder, "--num-images", 3, "--split", "train", "--out", tmp_path / "clouds.png")
    flipped = np.zeros((8, 8), dtype=np.uint8)
    flipped[:, 0] = 255
    Image.fromarray(flipped).save(tmp_path / "images" / "2.png")
    run("sample/clouds.py", folder, "--num-images", 3, "--split", "train", "--out", tmp_path / "clouds.png", expect=2)
    message = capsys.readouterr().err
    assert (
        "joining two halves needs at least 4 anchors; image 1 has 0 in its left half, and the next one has" in message
    )


def test_tokens_without_positions_are_refused(tmp_path, capsys):
    run("sample/clouds.py", cloud_run(tmp_path, tiny_autoencoder()), expect=2)
    assert (
        "must be a model of images whose tokens have positions; got one of 2 axes with 0 numbers"
        in capsys.readouterr().err
    )
