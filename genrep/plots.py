"""Plots of curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from genrep.files import replacing


def save_curves(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float | int], Sequence[float | int]]]],
    ylabel: str,
    path: Path | str,
    levels: Mapping[str, float | int] | None = None,
) -> Path:
    """Write a PNG of panels side by side, `{xlabel: {name: (x, y)}}`, with one legend.

    `levels` are values to compare curves with, by name: dashed lines in the curves' colours, labelled "published".
    InputError if the file cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (xlabel, curves) in zip(axes, panels.items(), strict=True):
        axis.set_prop_cycle(color=colormaps["tab10" if len(curves) <= 10 else "tab20"](range(20)))
        for name, (x, y) in curves.items():
            # With markers, because a curve of a single evaluation would be invisible.
            (line,) = axis.plot(x, y, label=name, linewidth=1.5, marker="o", markersize=3)
            if levels and name in levels:
                axis.axhline(levels[name], color=line.get_color(), linestyle="--", linewidth=1.5)
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.grid(alpha=0.3)
    if levels:
        axes[0].plot([], [], label="published", color="grey", linestyle="--", linewidth=1.5)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120, format="png")
    return Path(path)


def draw_confusion(
    labels: Int[np.ndarray, " signals"], predicted: Int[np.ndarray, " signals"], names: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
    """The confusion matrix: a row per class, its signals' shares by predicted class in percent."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (labels, predicted), 1)
    percent = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))
    side = 1.8 + 0.5 * len(names)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained", dpi=100)
    axes = figure.subplots()
    axes.imshow(percent, vmin=0, vmax=100, cmap="Blues")
    if len(names) <= 20:  # more numbers than this are too small to read
        for row, column in np.ndindex(percent.shape):
            colour = "white" if percent[row, column] > 50 else "black"
            axes.text(column, row, f"{percent[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="predicted class", ylabel="class")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw_fit(
    at: Float[np.ndarray, " samples"],
    samples: Float[np.ndarray, "channels samples"],
    fine: Float[np.ndarray, " points"],
    fit: Float[np.ndarray, "channels points"],
    curve: Float[np.ndarray, "channels points"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """A fit's curve over the samples, dots, that it was fitted to; below it, its error at them and on the curve.

    Args:
        at, samples: coordinates of the samples, and what they are.
        fine, fit: coordinates that are closer together, and the fit there.
        curve: what it should be there; None where that is not known, and the error is of the samples alone.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained", dpi=100)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    colours: Any = colormaps["tab10"](range(10))
    for channel in range(len(samples)):
        colour = colours[channel % 10]
        dots = {"color": colour, "marker": "o", "linestyle": "", "markersize": 3.5, "markeredgecolor": "black"}
        if curve is not None:
            above.plot(fine, curve[channel], color="black", linewidth=1, alpha=0.6, label="signal")
            below.plot(fine, fit[channel] - curve[channel], color=colour, linewidth=1)
        above.plot(fine, fit[channel], color=colour, linewidth=1.2, label="fit")
        above.plot(at, samples[channel], label="samples", **dots)
        below.plot(at, np.interp(at, fine, fit[channel]) - samples[channel], **dots)
    above.legend(*_first_of_each(above), loc="upper right", fontsize=8, ncols=3)
    below.set(ylabel="error", xlabel="coordinate")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _first_of_each(axes: Any) -> tuple[list[Any], list[str]]:
    """The legend's entries, each name once."""
    handles, names = axes.get_legend_handles_labels()
    first = {name: handle for handle, name in reversed(list(zip(handles, names, strict=True)))}
    return list(first.values())[::-1], list(first)[::-1]
