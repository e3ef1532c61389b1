"""Trained runs held against each other: curves, a table of equal images and equal seconds, its pictures. Without torch."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from genrep.errors import InputError

PUBLISHED_EXAMPLE = '{"pe_mlp": 31.38, "quad_tree": 40.55}'


@dataclass(frozen=True)
class Curve:
    """PSNR in dB at the evaluations of a run, in their order, over images and over seconds of training.

    A field counts steps as `images`: each shows it its one signal.
    """

    images: Sequence[int]
    seconds: Sequence[float]
    psnr: Sequence[float]

    def at_images(self, images: float | int) -> float | None:
        """PSNR after so many images, on the line between two evaluations; None outside the curve."""
        return _interpolate(images, self.images, self.psnr)

    def at_seconds(self, seconds: float | int) -> float | None:
        """PSNR after so many seconds, on the line between two evaluations; None outside the curve."""
        return _interpolate(seconds, self.seconds, self.psnr)


def _interpolate(x: float | int, xs: Sequence[float | int], ys: Sequence[float]) -> float | None:
    import numpy as np

    return float(np.interp(x, xs, ys)) if xs[0] <= x <= xs[-1] else None


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl that hold a PSNR. InputError if there are none."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    evaluations = [line for line in map(json.loads, lines) if "psnr" in line]
    if not evaluations:
        raise InputError(f"{path}: no evaluation to compare; train the run again with --restart")
    return evaluations


def read_curve(folder: Path) -> Curve:
    """The evaluations of a run, from its metrics.jsonl."""
    evaluations = read_evaluations(folder)
    return Curve(*([line[key] for line in evaluations] for key in ("images", "seconds", "psnr")))


@dataclass(frozen=True)
class Measurements(ABC):
    """What is measured of a trained model; each kind of run has a class of its own, whose fields the report holds."""

    psnr: float
    ssim: float | None

    @abstractmethod
    def columns(self) -> dict[str, str]:
        """What the table says of the model's size: heading -> text."""

    def note(self) -> str:
        """What the table's PSNRs are of, said below it; "" says nothing."""
        return ""


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: `name` is its config's, which it shares with the runs of other seeds."""

    name: str
    seed: int
    curve: Curve
    measured: Measurements


@dataclass(frozen=True, kw_only=True)
class Row:
    """A config in the table: means over its seeds, None where one of them has no value."""

    name: str
    measured: Measurements
    """Of the first seed; what depends on the seed follows as a mean."""
    psnr: float
    ssim: float | None
    psnr_at_equal_images: float | None
    psnr_at_equal_seconds: float | None
    psnr_by_seed: dict[int, float]
    images: list[int]
    seconds: list[float]
    images_per_second: float
    gap: float | None
    """PSNR over that of the first config, mean over the seeds that both have."""
    published: float | int | None
    published_gap: float | None


@dataclass(frozen=True)
class Table:
    """A row a config, and where their curves are read: where the shortest run ends."""

    rows: list[Row]
    equal_images: int
    equal_seconds: float
    unit: str
    """What training is counted in: images, or steps of a field."""
    has_published: bool

    def report(self) -> list[dict[str, Any]]:
        """The rows as plain data, for JSON."""
        return [
            {
                "name": row.name,
                **asdict(row.measured),
                "psnr": row.psnr,
                **({"published": row.published} if self.has_published else {}),
                "ssim": row.ssim,
                "psnr_at_equal_images": row.psnr_at_equal_images,
                "psnr_at_equal_seconds": row.psnr_at_equal_seconds,
                "equal_images": self.equal_images,
                "equal_seconds": self.equal_seconds,
                "psnr_by_seed": {str(seed): psnr for seed, psnr in row.psnr_by_seed.items()},
                "images": row.images,
                "seconds": row.seconds,
                "images_per_second": row.images_per_second,
            }
            for row in self.rows
        ]

    def markdown(self) -> str:
        """The table as Markdown; – where there is no value."""
        first = self.rows[0]
        gaps = [f"over {first.name}", "published", "over it"] if self.has_published else []
        equal = [f"PSNR after {self.equal_images:,} {self.unit}", f"PSNR after {self.equal_seconds:.0f} s"]
        sizes = first.measured.columns()
        lines = [_line(["", "PSNR", *gaps, "SSIM", *equal, *sizes, f"{self.unit}/s"])]
        lines.append(_line(["---"] * (lines[0].count("|") - 1)))
        for row in self.rows:
            published = [row.gap, row.published, row.published_gap] if self.has_published else []
            cells = [_number(value, 2) for value in (row.psnr, *published)] + [_number(row.ssim, 3)]
            cells += [_number(value, 2) for value in (row.psnr_at_equal_images, row.psnr_at_equal_seconds)]
            lines.append(_line([row.name, *cells, *row.measured.columns().values(), f"{row.images_per_second:.3g}"]))
        note = first.measured.note()
        return "\n".join([*lines, *(["", note] if note else [])]) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _number(value: float | int | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def make_table(runs: Sequence[TrainedRun], unit: str, published: Mapping[str, float | int] | None = None) -> Table:
    """The table of finished runs, a row a config in the runs' order.

    Args:
        runs: at least one; those of a config differ in their seed.
        unit: what training is counted in: "images" or "steps".
        published: PSNRs by config, the first run's among them, to hold the gaps to the first config against.
    """
    first, published = runs[0].name, published or {}
    equal_images = min(run.curve.images[-1] for run in runs)
    equal_seconds = min(run.curve.seconds[-1] for run in runs)
    rows = []
    for name in _names(runs):
        own = [run for run in runs if run.name == name]
        gaps = [run.measured.psnr - base.measured.psnr for run, base in _pairs(runs, name, first)]
        rows.append(
            Row(
                name=name,
                measured=own[0].measured,
                psnr=fmean(run.measured.psnr for run in own),
                ssim=_mean([run.measured.ssim for run in own]),
                psnr_at_equal_images=_mean([run.curve.at_images(equal_images) for run in own]),
                psnr_at_equal_seconds=_mean([run.curve.at_seconds(equal_seconds) for run in own]),
                psnr_by_seed={run.seed: run.measured.psnr for run in own},
                images=[run.curve.images[-1] for run in own],
                seconds=[run.curve.seconds[-1] for run in own],
                images_per_second=fmean(run.curve.images[-1] / run.curve.seconds[-1] for run in own),
                gap=_mean(gaps),
                published=published.get(name),
                published_gap=published[name] - published[first] if name in published else None,
            )
        )
    return Table(rows, equal_images, equal_seconds, unit, has_published=bool(published))


def without_pair(runs: Sequence[TrainedRun], first: str) -> list[str]:
    """The configs of which no finished run has a seed that a finished run of `first` has: they have no gap to it."""
    return [name for name in _names(runs) if not _pairs(runs, name, first)]


def curve_gaps(runs: Sequence[TrainedRun]) -> dict[str, tuple[list[int], list[float]]]:
    """PSNR of each config over that of the first, a mean over the seeds that both have: name -> (images, dB).

    It is taken at the config's own evaluations, and only where all the curves of that mean have begun and none has ended.
    """
    import numpy as np

    gaps = {}
    for name in _names(runs)[1:]:
        pairs = [(run.curve, base.curve) for run, base in _pairs(runs, name, runs[0].name)]
        start = max(curve.images[0] for pair in pairs for curve in pair)
        stop = min(curve.images[-1] for pair in pairs for curve in pair)
        where = [images for images in pairs[0][0].images if start <= images <= stop]
        own, base = (
            np.mean([np.interp(where, c.images, c.psnr) for c in side], axis=0) for side in zip(*pairs, strict=True)
        )
        gaps[name] = (where, (own - base).tolist())
    return gaps


def draw_curves(runs: Sequence[TrainedRun], unit: str, quality: str, path: Path) -> None:
    """PSNR over images (or steps) and over seconds, a curve a run; `quality` is the label of the upright axis."""
    from genrep.plots import save_curves

    several = len({run.seed for run in runs}) > 1
    curves = {f"{run.name}, seed {run.seed}" if several else run.name: run.curve for run in runs}
    panels: dict[str, dict[str, tuple[Sequence[float | int], Sequence[float]]]] = {
        unit: {label: (curve.images, curve.psnr) for label, curve in curves.items()},
        "seconds of training": {label: (curve.seconds, curve.psnr) for label, curve in curves.items()},
    }
    save_curves(panels, quality, path)


def draw_gaps(runs: Sequence[TrainedRun], unit: str, published: Mapping[str, float | int], path: Path) -> None:
    """`curve_gaps` over images (or steps); dashed, the published gaps."""
    from genrep.plots import save_curves

    first = runs[0].name
    levels = {name: psnr - published[first] for name, psnr in published.items()}
    save_curves({unit: curve_gaps(runs)}, f"PSNR over {first} (dB)", path, levels)


def read_published(path: Path, first: str) -> dict[str, float | int]:
    """PSNRs that somebody published, by the configs' names. InputError unless that of `first` is among them."""
    try:
        published = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no JSON to read ({error}); give a file like {PUBLISHED_EXAMPLE}") from error
    numbers = isinstance(published, dict) and all(type(value) in (int, float) for value in published.values())
    if not numbers or first not in published:
        raise InputError(
            f"{path}: {json.dumps(published)[:100]}, wanted the PSNR of {first}, the first config, and of others by their "
            f"names, like {PUBLISHED_EXAMPLE}"
        )
    return published


def _names(runs: Sequence[TrainedRun]) -> list[str]:
    return list(dict.fromkeys(run.name for run in runs))


def _pairs(runs: Sequence[TrainedRun], name: str, first: str) -> list[tuple[TrainedRun, TrainedRun]]:
    """Runs of `name` and of `first` with the same seed, so that a gap between them is not one of seeds."""
    base = {run.seed: run for run in runs if run.name == first}
    return [(run, base[run.seed]) for run in runs if run.name == name and run.seed in base]


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present and len(present) == len(values) else None
