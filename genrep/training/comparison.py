"""Comparison of trained runs: curves, a table at equal images and equal seconds, and pictures. Does not import torch."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from genrep.errors import InputError

PUBLISHED_EXAMPLE = '{"pe_mlp": 31.38, "quad_tree": 40.55}'


class Metric(NamedTuple):
    """How a metric is printed."""

    name: str
    digits: int
    unit: str = ""

    @property
    def label(self) -> str:
        """Label of an axis."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


HEADLINES = {"psnr": Metric("PSNR", 2, "dB"), "iou": Metric("IoU", 4)}
"""The metrics that curves can show, by key in metrics.jsonl; a run's curve shows the first that its evaluations have."""
FURTHER = {
    "psnr_std": Metric("PSNR, std over frames", 2),
    "ssim": Metric("SSIM", 3),
    "ssim_std": Metric("SSIM, std over frames", 3),
    "chamfer": Metric("Chamfer distance", 5),
    "psnr_between": Metric("PSNR between samples", 2),
}
"""Further columns of the table, for the metrics that the runs have."""


@dataclass(frozen=True)
class Curve:
    """Quality (PSNR in dB, or IoU) at the evaluations of a run, in their order, over images and over seconds of training.

    For a field, `images` are steps, since every step sees its one signal.
    """

    images: Sequence[int]
    seconds: Sequence[float]
    quality: Sequence[float]

    def at_images(self, images: float | int) -> float | None:
        """Quality after this many images, interpolated linearly between evaluations; None outside the curve."""
        return _interpolate(images, self.images, self.quality)

    def at_seconds(self, seconds: float | int) -> float | None:
        """Quality after this many seconds, interpolated linearly between evaluations; None outside the curve."""
        return _interpolate(seconds, self.seconds, self.quality)


def _interpolate(x: float | int, xs: Sequence[float | int], ys: Sequence[float]) -> float | None:
    import numpy as np

    return float(np.interp(x, xs, ys)) if xs[0] <= x <= xs[-1] else None


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl that hold an evaluation, see `HEADLINES`. InputError if there are none."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    evaluations = [line for line in map(json.loads, lines) if HEADLINES.keys() & line.keys()]
    if not evaluations:
        raise InputError(f"{path}: no evaluation to compare; train the run again with --restart")
    return evaluations


def headline(evaluation: Mapping[str, Any]) -> str:
    """The key of the metric that an evaluation is compared by."""
    return next(key for key in HEADLINES if key in evaluation)


def read_curve(folder: Path) -> Curve:
    """The evaluations of a run, from its metrics.jsonl."""
    evaluations = read_evaluations(folder)
    return Curve(*([line[key] for line in evaluations] for key in ("images", "seconds", headline(evaluations[0]))))


@dataclass(frozen=True)
class Measurements(ABC):
    """Measurements of a trained model. Each kind of run has its own subclass, whose fields go into the report.

    Attributes:
        metrics: metrics by key, including one of `HEADLINES`.
    """

    metrics: Mapping[str, float]

    @property
    def quality(self) -> float:
        """The metric that runs are compared by."""
        return self.metrics[headline(self.metrics)]

    @abstractmethod
    def columns(self) -> dict[str, str]:
        """The table's columns about the model's size: heading -> text."""

    def note(self) -> str:
        """A note below the table on what its PSNRs were measured on; may be empty."""
        return ""


@dataclass(frozen=True)
class TrainedRun:
    """A finished run. `name` is that of its config, shared by the config's runs with other seeds and on other signals."""

    name: str
    seed: int
    curve: Curve
    measurements: Measurements
    signal: str = ""
    """Name of the signal it was fitted to; empty if there is only one."""

    @property
    def pair(self) -> tuple[str, int]:
        """What two runs must share so that a gap between them is due to their configs."""
        return self.signal, self.seed


@dataclass(frozen=True, kw_only=True)
class Row:
    """A config's row in the table: means over its signals and seeds, None where one of its runs lacks the value."""

    name: str
    measurements: Measurements
    """Those of the first run; numbers that differ between runs are in the fields below, as means."""
    quality: float
    metrics: dict[str, float | None]
    """Every metric that any run in the table has."""
    quality_at_equal_images: float | None
    quality_at_equal_seconds: float | None
    quality_by_seed: dict[int, float]
    metrics_by_signal: dict[str, dict[str, float | None]]
    """Means over the seeds; empty if there is only one signal."""
    images: list[int]
    seconds: list[float]
    images_per_second: float
    gap: float | None
    """Quality minus that of the first config, averaged over the signals and seeds that both have."""
    published: float | int | None
    published_gap: float | None


@dataclass(frozen=True)
class Table:
    """One row per config, and the points at which curves are compared: where the shortest run ends."""

    rows: list[Row]
    equal_images: int
    equal_seconds: float
    unit: str
    """Unit in which training is counted: images, or steps for fields."""
    has_published: bool
    headline: str = "psnr"
    """Key of the metric in `quality`."""

    def report(self) -> list[dict[str, Any]]:
        """The rows as plain data, for JSON."""
        return [self._row_report(row) for row in self.rows]

    def _row_report(self, row: Row) -> dict[str, Any]:
        sizes = {key: value for key, value in asdict(row.measurements).items() if key != "metrics"}
        signals = {"metrics_by_signal": row.metrics_by_signal} if row.metrics_by_signal else {}
        return {
            "name": row.name,
            **sizes,
            **row.metrics,
            **({"published": row.published} if self.has_published else {}),
            f"{self.headline}_at_equal_images": row.quality_at_equal_images,
            f"{self.headline}_at_equal_seconds": row.quality_at_equal_seconds,
            "equal_images": self.equal_images,
            "equal_seconds": self.equal_seconds,
            f"{self.headline}_by_seed": {str(seed): quality for seed, quality in row.quality_by_seed.items()},
            **signals,
            "images": row.images,
            "seconds": row.seconds,
            "images_per_second": row.images_per_second,
        }

    def markdown(self) -> str:
        """The table as Markdown, with – where there is no value."""
        first, metric = self.rows[0], HEADLINES[self.headline]
        gaps = [f"over {first.name}", "published", "over it"] if self.has_published else []
        further = {key: column for key, column in FURTHER.items() if key in first.metrics}
        equal = [f"{metric.name} after {self.equal_images:,} {self.unit}"]
        equal.append(f"{metric.name} after {self.equal_seconds:.0f} s")
        sizes = first.measurements.columns()
        names = [column.name for column in further.values()]
        lines = [_line(["", metric.name, *gaps, *names, *equal, *sizes, f"{self.unit}/s"])]
        lines.append(_line(["---"] * (lines[0].count("|") - 1)))
        for row in self.rows:
            published = [row.gap, row.published, row.published_gap] if self.has_published else []
            cells = [_number(value, metric.digits) for value in (row.quality, *published)]
            cells += [_number(row.metrics[key], column.digits) for key, column in further.items()]
            equal_values = (row.quality_at_equal_images, row.quality_at_equal_seconds)
            cells += [_number(value, metric.digits) for value in equal_values]
            lines.append(
                _line([row.name, *cells, *row.measurements.columns().values(), f"{row.images_per_second:.3g}"])
            )
        notes = [self._signals_note(), first.measurements.note()]
        return "\n".join([*lines, *(line for note in notes if note for line in ("", note))]) + "\n"

    def _signals_note(self) -> str:
        """The signals that the means are over, if there is more than one."""
        signals = list(self.rows[0].metrics_by_signal)
        return f"Means over {len(signals)} signals: {', '.join(signals)}." if signals else ""


def _line(cells: Iterable[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _number(value: float | int | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def make_table(runs: Sequence[TrainedRun], unit: str, published: Mapping[str, float | int] | None = None) -> Table:
    """The table of finished runs, one row per config in the order of the runs.

    Args:
        runs: at least one; the runs of a config differ in their seed or signal.
        unit: unit in which training is counted: "images" or "steps".
        published: published PSNRs by config, including the first run's, whose gaps to the first config are compared.
    """
    first, published = runs[0].name, published or {}
    equal_images = min(run.curve.images[-1] for run in runs)
    equal_seconds = min(run.curve.seconds[-1] for run in runs)
    keys = list(dict.fromkeys(key for run in runs for key in run.measurements.metrics))
    signals = list(dict.fromkeys(run.signal for run in runs if run.signal))
    rows = []
    for name in _names(runs):
        of_config = [run for run in runs if run.name == name]
        gaps = [run.measurements.quality - base.measurements.quality for run, base in _pairs(runs, name, first)]
        by_seed = {
            seed: [run.measurements.quality for run in of_config if run.seed == seed]
            for seed in dict.fromkeys(run.seed for run in of_config)
        }
        rows.append(
            Row(
                name=name,
                measurements=of_config[0].measurements,
                quality=fmean(run.measurements.quality for run in of_config),
                metrics=_means(of_config, keys),
                quality_at_equal_images=_mean([run.curve.at_images(equal_images) for run in of_config]),
                quality_at_equal_seconds=_mean([run.curve.at_seconds(equal_seconds) for run in of_config]),
                quality_by_seed={seed: fmean(qualities) for seed, qualities in by_seed.items()},
                metrics_by_signal={
                    signal: _means([run for run in of_config if run.signal == signal], keys) for signal in signals
                },
                images=[run.curve.images[-1] for run in of_config],
                seconds=[run.curve.seconds[-1] for run in of_config],
                images_per_second=fmean(run.curve.images[-1] / run.curve.seconds[-1] for run in of_config),
                gap=_mean(gaps),
                published=published.get(name),
                published_gap=published[name] - published[first] if name in published else None,
            )
        )
    metric = headline(runs[0].measurements.metrics)
    return Table(rows, equal_images, equal_seconds, unit, has_published=bool(published), headline=metric)


def _means(runs: Sequence[TrainedRun], keys: Sequence[str]) -> dict[str, float | None]:
    """The mean of each metric over runs."""
    return {key: _mean([run.measurements.metrics.get(key) for run in runs]) for key in keys}


def without_pair(runs: Sequence[TrainedRun], first: str) -> list[str]:
    """The configs without a finished run on a signal and seed of a finished run of `first`: they have no gap to it."""
    return [name for name in _names(runs) if not _pairs(runs, name, first)]


def curve_gaps(runs: Sequence[TrainedRun]) -> dict[str, tuple[list[int], list[float]]]:
    """Each config's PSNR minus the first one's, averaged over the seeds that both have: name -> (images, dB).

    It is computed at the config's own evaluations, and only where every curve in that mean is defined.
    """
    import numpy as np

    gaps = {}
    for name in _names(runs)[1:]:
        pairs = [(run.curve, base.curve) for run, base in _pairs(runs, name, runs[0].name)]
        start = max(curve.images[0] for pair in pairs for curve in pair)
        stop = min(curve.images[-1] for pair in pairs for curve in pair)
        where = [images for images in pairs[0][0].images if start <= images <= stop]
        quality, base_quality = (
            np.mean([np.interp(where, c.images, c.quality) for c in side], axis=0) for side in zip(*pairs, strict=True)
        )
        gaps[name] = (where, (quality - base_quality).tolist())
    return gaps


def mean_curves(runs: Sequence[TrainedRun]) -> dict[str, Curve]:
    """A curve for each config, and for each of its seeds where there are several; of several signals their mean.

    A mean is taken at the evaluations of its first signal, and only where the curves of all have begun and none has ended:
    sixty curves, of five networks on twelve images, could not be told apart.
    """
    import numpy as np

    several = len({run.seed for run in runs}) > 1
    groups: dict[str, list[Curve]] = {}
    for run in runs:
        groups.setdefault(f"{run.name}, seed {run.seed}" if several else run.name, []).append(run.curve)
    means = {}
    for label, curves in groups.items():
        start, stop = max(curve.images[0] for curve in curves), min(curve.images[-1] for curve in curves)
        images = [count for count in curves[0].images if start <= count <= stop]
        seconds, quality = (
            np.mean([np.interp(images, curve.images, values) for curve, values in pairs], axis=0).tolist()
            for pairs in ([(c, c.seconds) for c in curves], [(c, c.quality) for c in curves])
        )
        means[label] = Curve(images, seconds, quality)
    return means


def draw_curves(runs: Sequence[TrainedRun], unit: str, quality: str, path: Path) -> None:
    """`mean_curves` over images (or steps) and over seconds; `quality` labels the vertical axis."""
    from genrep.plots import save_curves

    curves, signals = mean_curves(runs), {run.signal for run in runs}
    if len(signals) > 1:
        quality = f"{quality}, mean over {len(signals)} signals"
    panels: dict[str, dict[str, tuple[Sequence[float | int], Sequence[float]]]] = {
        unit: {label: (curve.images, curve.quality) for label, curve in curves.items()},
        "seconds of training": {label: (curve.seconds, curve.quality) for label, curve in curves.items()},
    }
    save_curves(panels, quality, path)


def draw_gaps(runs: Sequence[TrainedRun], unit: str, published: Mapping[str, float | int], path: Path) -> None:
    """`curve_gaps` over images (or steps), with the published gaps as dashed lines."""
    from genrep.plots import save_curves

    first = runs[0].name
    levels = {name: psnr - published[first] for name, psnr in published.items()}
    metric = HEADLINES[headline(runs[0].measurements.metrics)]
    label = metric._replace(name=f"{metric.name} over {first}").label
    save_curves({unit: curve_gaps(runs)}, label, path, levels)


def read_published(path: Path, first: str) -> dict[str, float | int]:
    """Published PSNRs by the configs' names. InputError unless that of `first` is among them."""
    try:
        published = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} must be a JSON file like {PUBLISHED_EXAMPLE}; it cannot be read ({error})") from error
    numbers = isinstance(published, dict) and all(type(value) in (int, float) for value in published.values())
    if not numbers or first not in published:
        raise InputError(
            f"{path} must hold the PSNR of {first}, the first config, and may hold those of others, like {PUBLISHED_EXAMPLE}; "
            f"got {json.dumps(published)[:100]}"
        )
    return published


def _names(runs: Sequence[TrainedRun]) -> list[str]:
    return list(dict.fromkeys(run.name for run in runs))


def _pairs(runs: Sequence[TrainedRun], name: str, first: str) -> list[tuple[TrainedRun, TrainedRun]]:
    """Runs of `name` and of `first` with the same signal and seed, so that a gap between them is due to the configs."""
    base = {run.pair: run for run in runs if run.name == first}
    return [(run, base[run.pair]) for run in runs if run.name == name and run.pair in base]


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present and len(present) == len(values) else None
