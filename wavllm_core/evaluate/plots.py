"""Charts as SVG files: lines, bars, and the trade between misses and false alarms. Knows numbers, not where from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wavllm_core.evaluate.metrics import Floats

matplotlib.rcParams["svg.hashsalt"] = "wavllm"  # the same numbers, the same file
TICKS = (0.5, 1, 2, 5, 10, 20, 40)  # of error rates, in percent


def line_chart(
    path: Path, title: str, axes: tuple[str, str], lines: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
    """One line of (x, y) for each name, both axes from 0."""
    figure, plot = _empty(title, axes)
    for label, points in lines.items():
        plot.plot(*zip(*points, strict=True), label=label)
    plot.set_xlim(left=0)
    plot.set_ylim(bottom=0)
    plot.legend()
    _save(figure, path)


def bar_chart(path: Path, title: str, label: str, bars: Mapping[str, float]) -> None:
    """One bar for each name, from left to right, with its value."""
    figure, plot = _empty(title, ("", label))
    drawn = plot.bar(list(bars), list(bars.values()))
    plot.bar_label(drawn, fmt="%.3g")
    plot.tick_params(axis="x", rotation=20)
    _save(figure, path)


def confusion_chart(path: Path, title: str, table: Mapping[str, Mapping[str, int]]) -> None:
    """How often what stands on the left was taken for what stands below: counts, darker for a larger share of a row."""
    below = [*table, *sorted({name for row in table.values() for name in row} - table.keys())]
    counts = np.array([[row.get(name, 0) for name in below] for row in table.values()])
    figure, plot = _empty(title, ("answered", "acted"))
    plot.grid(visible=False)
    plot.imshow(counts / counts.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    plot.set_xticks(range(len(below)), below, rotation=30)
    plot.set_yticks(range(len(table)), list(table))
    for (row, column), count in np.ndenumerate(counts):
        dark = count > counts[row].sum() / 2
        plot.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
    _save(figure, path)


def det_chart(path: Path, title: str, curves: Mapping[str, tuple[Floats, Floats]]) -> None:
    """Detection error trade-off: shares of misses over shares of false alarms, for each name, on normal deviates."""
    figure, plot = _empty(title, ("false alarms, %", "misses, %"))
    low, high = TICKS[0] / 2, 60.0
    for label, (misses, false_alarms) in curves.items():
        plot.plot(*(np.clip(100 * rate, low, high) for rate in (false_alarms, misses)), label=label)
    plot.set_xscale("function", functions=(_deviates, _percents))
    plot.set_yscale("function", functions=(_deviates, _percents))
    for axis in (plot.xaxis, plot.yaxis):
        axis.set_ticks(TICKS, labels=[f"{tick:g}" for tick in TICKS])
    plot.set_xlim(low, high)
    plot.set_ylim(low, high)
    plot.axline((low, low), (high, high), color="grey", linewidth=0.5)
    plot.legend()
    _save(figure, path)


def _deviates(percents: Floats) -> Floats:
    inside = np.clip(percents, 1e-3, 100 - 1e-3)
    return np.vectorize(NormalDist().inv_cdf, otypes=[float])(inside / 100)


def _percents(deviates: Floats) -> Floats:
    return 100 * np.vectorize(NormalDist().cdf, otypes=[float])(deviates)


def _empty(title: str, axes: tuple[str, str]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    plot = figure.add_subplot(title=title, xlabel=axes[0], ylabel=axes[1])
    plot.grid(alpha=0.3)
    return figure, plot


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
