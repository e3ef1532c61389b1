"""Curves, tables and gaps of runs whose values are known in closed form."""

import json
from dataclasses import dataclass

import pytest
from PIL import Image

from genrep.errors import InputError
from genrep.training.comparison import (
    Curve,
    Measurements,
    TrainedRun,
    curve_gaps,
    draw_curves,
    draw_gaps,
    make_table,
    mean_curves,
    read_curve,
    read_published,
    without_pair,
)


@dataclass(frozen=True)
class Sized(Measurements):
    weights: int = 12_345

    def columns(self):
        return {"weights": f"{self.weights:,}"}


def line(slope, start, images, speed=10) -> Curve:
    """A curve that starts at `start` dB and gains `slope` dB per image, at `speed` images per second."""
    return Curve(images, [n / speed for n in images], [float(start + slope * n) for n in images])


def trained(name: str, seed: int, curve: Curve, ssim: float | None = None, signal: str = "") -> TrainedRun:
    metrics = {"psnr": curve.quality[-1], **({} if ssim is None else {"ssim": ssim})}
    return TrainedRun(name, seed, curve, Sized(metrics), signal)


def test_a_curve_is_linear_between_evaluations_and_ends_with_them():
    curve = line(0.25, 20, [3, 10, 100])
    assert [curve.at_images(n) for n in (3, 5, 10, 64, 100)] == pytest.approx([20.75, 21.25, 22.5, 36, 45])
    assert [curve.at_seconds(s) for s in (0.3, 1, 7.5)] == pytest.approx([20.75, 22.5, 38.75])
    assert [curve.at_images(n) for n in (2, 101)] == [curve.at_seconds(s) for s in (0.29, 10.1)] == [None, None]
    bent = Curve([0, 1, 3], [0.0, 1.0, 3.0], [0.0, 1.0, 9.0])  # x²: at 2 the chord from (1, 1) to (3, 9) is at 5, not 4
    assert bent.at_images(2) == bent.at_seconds(2) == 5


def test_curves_of_several_signals_are_drawn_as_their_mean(tmp_path, monkeypatch):
    """12 images of 5 networks are 5 lines; a mean ends where the first of its curves ends."""
    runs = [
        trained(name, 0, line(slope, 10 * number, [1, 2, 4], speed=2 + number), signal=f"image {number}")
        for slope, name in enumerate("abcde", start=1)
        for number in range(12)
    ]
    runs[0] = trained("a", 0, line(1, 0, [1, 2], speed=2), signal="image 0")
    curves = mean_curves(runs)
    assert list(curves) == list("abcde") and (curves["a"].images, curves["b"].images) == ([1, 2], [1, 2, 4])
    assert curves["b"].quality == pytest.approx([57, 59, 63])
    assert curves["b"].seconds[2] == pytest.approx(sum(4 / (2 + number) for number in range(12)) / 12)
    drawn = []
    monkeypatch.setattr("genrep.plots.save_curves", lambda *arguments: drawn.append(arguments))
    draw_curves(runs, "steps", "PSNR (dB)", tmp_path / "curves.png")
    assert drawn[0][1] == "PSNR (dB), mean over 12 signals" and list(drawn[0][0]["steps"]) == list("abcde")


def test_curves_are_read_where_the_shortest_run_ends():
    """One run ends first in images, the other in seconds."""
    runs = [trained("slow", 0, line(1, 0, [2, 12, 22], speed=2)), trained("fast", 0, line(2, 5, [10, 50], speed=10))]
    table = make_table(runs, "images")
    slow, fast = table.rows
    assert (table.equal_images, table.equal_seconds) == (22, 5.0)
    assert (slow.quality_at_equal_images, fast.quality_at_equal_images) == (22, 5 + 2 * 22)
    assert (slow.quality_at_equal_seconds, fast.quality_at_equal_seconds) == (10, 5 + 2 * 50)
    assert (slow.images_per_second, fast.images_per_second) == (2, 10)


def test_a_row_is_a_mean_over_seeds_and_a_gap_over_shared_ones():
    runs = [trained("base", seed, line(0, psnr, [5, 20]), 0.5) for seed, psnr in ((0, 20), (1, 10))]
    runs += [trained("other", seed, line(0, psnr, [5, 20])) for seed, psnr in ((1, 13), (2, 33))]
    base, other = make_table(runs, "steps").rows
    assert (base.quality, base.gap, base.metrics["ssim"]) == (15, 0, 0.5)
    assert (other.quality, other.gap, other.quality_by_seed) == (23, 3, {1: 13, 2: 33})  # 13 - 10, with seed 1 alone


def test_a_mean_is_missing_if_one_seed_lacks_the_value():
    runs = [trained("a", 0, line(0, 20, [10]), 0.5), trained("b", 0, line(0, 21, [10]), 0.5)]
    runs.append(trained("b", 1, line(0, 23, [10, 20]), None))
    runs.append(trained("c", 5, line(0, 23, [15, 20]), 0.7))
    _, b, c = make_table(runs, "images").rows
    assert b.metrics["ssim"] is None and c.metrics["ssim"] == 0.7
    assert c.gap is None, "a and c share no seed"
    assert b.quality_at_equal_images == 22 and c.quality_at_equal_images is None, "c is first evaluated at 15 images"
    assert without_pair(runs, "a") == ["c"] and without_pair(runs, "nothing") == ["a", "b", "c"]


def test_single_evaluations_are_compared_if_they_are_at_equal_images():
    same = [trained("a", 0, line(0, 20, [64])), trained("b", 0, line(0, 22.5, [64]))]
    assert [row.quality_at_equal_images for row in make_table(same, "images").rows] == [20, 22.5]
    assert curve_gaps(same) == {"b": ([64], [2.5])}
    later = [same[0], trained("b", 0, line(0, 22.5, [65]))]
    assert [row.quality_at_equal_images for row in make_table(later, "images").rows] == [20, None]
    assert curve_gaps(later) == {"b": ([], [])}


def test_gaps_are_between_equal_seeds_where_both_curves_are_defined():
    runs = [
        trained("a", 0, Curve([5, 15], [1.0, 2.0], [20.0, 22.0])),
        trained("a", 1, Curve([5, 20], [1.0, 2.0], [10.0, 10.0])),
        trained("b", 0, Curve([0, 10, 20], [0.0, 1.0, 2.0], [1.0, 23.0, 30.0])),
        trained("c", 0, Curve([5, 15], [1.0, 2.0], [21.0, 21.0])),
        trained("c", 1, Curve([6, 15], [1.0, 2.0], [11.0, 20.0])),
    ]
    # b at 10, with seed 0: 23 against 21. c at 15: 21 and 20 against 22 and 10; with seed 1 it has no value at 5
    assert curve_gaps(runs) == {"b": ([10], [2.0]), "c": ([15], [pytest.approx(4.5)])}


def test_the_table_compares_gaps_with_the_published_ones():
    runs = [trained("a", 0, line(0.5, 20, [10, 20]), 0.25), trained("b", 0, line(1, 20, [10, 20]), 0.75)]
    table = make_table([*runs, trained("c", 0, line(0, 8, [10, 20]))], "steps", {"a": 31.38, "b": 40.55})
    assert table.markdown().splitlines() == [
        "| | PSNR | over a | published | over it | SSIM | PSNR after 20 steps | PSNR after 2 s | weights | steps/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| a | 30.00 | 0.00 | 31.38 | 0.00 | 0.250 | 30.00 | 30.00 | 12,345 | 10 |",
        "| b | 40.00 | 10.00 | 40.55 | 9.17 | 0.750 | 40.00 | 40.00 | 12,345 | 10 |",
        "| c | 8.00 | -22.00 | – | – | – | 8.00 | 8.00 | 12,345 | 10 |",
    ]
    assert [row["published"] for row in table.report()] == [31.38, 40.55, None]


def test_a_report_is_json_with_the_measurements_of_its_kind():
    table = make_table([trained("a", 3, line(0.5, 20, [10, 20]), 0.25)], "images")
    assert json.loads(json.dumps(table.report())) == [
        {
            "name": "a", "psnr": 30, "ssim": 0.25, "weights": 12_345, "psnr_by_seed": {"3": 30},
            "psnr_at_equal_images": 30, "psnr_at_equal_seconds": 30, "equal_images": 20, "equal_seconds": 2,
            "images": [20], "seconds": [2], "images_per_second": 10,
        }
    ]  # fmt: skip
    assert "| over" not in table.markdown() and table.markdown().endswith("| 12,345 | 10 |\n")


def test_a_curve_is_read_from_the_lines_with_a_psnr(tmp_path):
    lines = [{"step": 1, "loss": 2.0}, {"images": 16, "seconds": 0.5, "psnr": 12.0}, {"step": 2, "loss": 1.0}]
    lines.append({"images": 32, "seconds": 1.0, "psnr": 14.0, "ssim": 0.5})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_curve(tmp_path) == Curve([16, 32], [0.5, 1.0], [12.0, 14.0])


@pytest.mark.parametrize("text", [None, "", '{"step": 1, "loss": 2.0}\n'], ids=["no file", "empty", "no evaluation"])
def test_a_run_without_evaluations_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"metrics\.jsonl: no evaluation to compare; train the run again"):
        read_curve(tmp_path)


def test_published_figures_need_the_first_configs(tmp_path):
    path = tmp_path / "published.json"
    path.write_text('{"a": 31.38, "b": 40}')
    assert read_published(path, "b") == {"a": 31.38, "b": 40}
    with pytest.raises(InputError, match="must hold the PSNR of c, the first config"):
        read_published(path, "c")


def test_pictures_show_every_run_and_every_gap(tmp_path, monkeypatch):
    drawn = []
    runs = [trained(name, seed, line(slope, seed, [1, 2])) for name, slope in (("a", 1), ("b", 3)) for seed in (0, 1)]
    draw_curves(runs, "images", "PSNR (dB)", tmp_path / "curves.png")
    draw_gaps(runs, "images", {"a": 1.0, "b": 2.0}, tmp_path / "gaps.png")
    for name, panels in (("curves", 2), ("gaps", 1)):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.format == "PNG" and picture.width == 624 * panels
    monkeypatch.setattr("genrep.plots.save_curves", lambda *arguments: drawn.append(arguments))
    draw_curves(runs, "images", "PSNR (dB)", tmp_path / "curves.png")
    draw_gaps(runs, "images", {"a": 1.0, "b": 2.0}, tmp_path / "gaps.png")
    (panels, _, _), (gaps, label, _, levels) = drawn
    assert panels["images"]["b, seed 1"] == ([1, 2], [4, 7]) and panels["seconds of training"]["a, seed 0"][0] == [
        0.1,
        0.2,
    ]
    assert gaps == {"images": {"b": ([1, 2], [2.0, 4.0])}} and label == "PSNR over a (dB)" and levels["b"] == 1.0


def test_means_are_over_signals_and_gaps_between_equal_ones():
    runs = [trained("a", 0, line(0, psnr, [5]), 0.5, signal) for signal, psnr in (("one", 20), ("two", 30))]
    runs += [trained("b", 0, line(0, psnr, [5]), 0.75, signal) for signal, psnr in (("two", 33), ("three", 10))]
    table = make_table(runs, "steps")
    a, b = table.rows
    assert (a.quality, b.quality, b.gap) == (25, 21.5, 3)
    assert a.metrics_by_signal["two"] == {"psnr": 30, "ssim": 0.5} and a.quality_by_seed == {0: 25}
    assert table.report()[1]["metrics_by_signal"]["one"] == {"psnr": None, "ssim": None}
    assert table.markdown().endswith("\n\nMeans over 3 signals: one, two, three.\n")


def test_shapes_are_compared_by_iou(tmp_path):
    lines = [{"images": n, "seconds": n / 2, "iou": iou, "chamfer": 0.01 / n} for n, iou in ((1, 0.5), (2, 0.75))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = TrainedRun("a", 0, read_curve(tmp_path), Sized({"iou": 0.75, "chamfer": 0.005}))
    assert run.curve.quality == [0.5, 0.75]
    table = make_table([run], "steps")
    assert table.report()[0]["iou_at_equal_images"] == table.report()[0]["iou"] == 0.75
    assert table.markdown().splitlines()[::2] == [
        "| | IoU | Chamfer distance | IoU after 2 steps | IoU after 1 s | weights | steps/s |",
        "| a | 0.7500 | 0.00500 | 0.7500 | 0.7500 | 12,345 | 2 |",
    ]
