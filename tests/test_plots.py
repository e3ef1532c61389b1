"""Plots of curves, as PNG files that other programs can open."""

import numpy as np
import pytest
from PIL import Image

from genrep.plots import save_curves

BLUE, ORANGE = (31, 119, 180), (255, 127, 14)
"""The first two colours of matplotlib's cycle."""
ONE, TWO = {"a": ([0.0, 1.0], [1.0, 3.0])}, {"a": ([0.0, 1.0], [1.0, 3.0]), "b": ([0.0, 1.0], [2.0, 1.0])}


def pixels_of(path, colour) -> int:
    return int((np.asarray(Image.open(path).convert("RGB")) == colour).all(axis=-1).sum())


@pytest.mark.parametrize("panels", [{"images": ONE}, {"images": ONE, "seconds": ONE}], ids=["one panel", "two panels"])
def test_curves_are_written_as_a_png(tmp_path, panels):
    path = tmp_path / "new" / "folder" / "curves.png"
    assert save_curves(panels, "PSNR", path) == path
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.size == (624 * len(panels), 480)
        picture.load()
        halves = [picture.crop((624 * k, 0, 624 * (k + 1), 480)).convert("RGB") for k in range(len(panels))]
    assert all((np.asarray(half) == BLUE).all(axis=-1).any() for half in halves), "a curve in every panel"


def test_curves_have_different_colours(tmp_path):
    single, two = (
        save_curves({"x": curves}, "y", str(tmp_path / name)) for curves, name in ((ONE, "1.png"), (TWO, "2.png"))
    )
    assert pixels_of(single, BLUE) > 100 and pixels_of(single, ORANGE) == 0
    assert pixels_of(two, BLUE) > 100 and pixels_of(two, ORANGE) > 100


def test_labels_and_names_are_drawn(tmp_path):
    paths = [
        save_curves({xlabel: {name: ([0.0, 1.0], [0.0, 1.0])}}, ylabel, tmp_path / f"{number}.png")
        for number, (xlabel, ylabel, name) in enumerate(
            [("x", "y", "n"), ("z", "y", "n"), ("x", "z", "n"), ("x", "y", "m")]
        )
    ]
    pictures = [path.read_bytes() for path in paths]
    assert len(set(pictures)) == 4


def test_whole_numbers_are_numbers(tmp_path):
    """Images and steps are integers."""
    whole, same = (
        save_curves({"images": {"a": (x, [1.0, 3.0])}}, "y", tmp_path / f"{number}.png").read_bytes()
        for number, x in enumerate([[0, 2], [0.0, 2.0]])
    )
    assert whole == same


def test_levels_are_drawn_in_the_colours_of_their_curves(tmp_path):
    plain = save_curves({"x": TWO}, "y", tmp_path / "plain.png")
    with_level = save_curves({"x": TWO}, "y", tmp_path / "level.png", {"b": 2.5, "unknown": 9.0})
    assert pixels_of(with_level, ORANGE) > pixels_of(plain, ORANGE) + 100, "a dashed line"
    assert abs(pixels_of(with_level, BLUE) - pixels_of(plain, BLUE)) < 60  # where the two cross


def test_a_curve_of_one_point_is_visible(tmp_path):
    """A run with one evaluation has no line to draw."""
    empty = save_curves({"x": {"a": ([], [])}}, "y", tmp_path / "empty.png")
    single = save_curves({"x": {"a": ([1.0], [2.0])}}, "y", tmp_path / "one.png")
    assert pixels_of(single, BLUE) > pixels_of(empty, BLUE) + 10
