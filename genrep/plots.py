"""Plots of curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

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
