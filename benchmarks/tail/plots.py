"""The pictures of the docs: SVG with text as text, on no ground of its own, in colours and greys
that can be told apart on white and on black and by the colour-blind (after Okabe and Ito), and by
the kind of line without any. The same figures make the same file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.tail.alone import BUDGET
from benchmarks.tail.closed_form import TARGETS, single_r, survival
from benchmarks.tail.load import Table
from benchmarks.tail.queueing import BOTH, FAN_OUTS, ONE, P2C, RANDOM, UNBOUND

__all__ = ["draw"]

INK = "#767676"  # as far from white as from black
BLUE, RED, GREEN, PURPLE, GREY = "#2B83C6", "#D55E00", "#009E73", "#B46FA0", "#8C8C8C"

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.hashsalt": "tailrace",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "figure.constrained_layout.use": True,
}

Lines = Mapping[str, tuple[str, str, str]]
"""Name → colour, kind of line, marker."""

WAYS: Lines = {
    ONE: (GREY, ":", "s"),
    P2C: (BLUE, "--", "^"),
    RANDOM: (PURPLE, "-.", "D"),
    BOTH: (RED, "-", "o"),
    UNBOUND: (GREEN, (0, (1, 1)), "v"),  # type: ignore[dict-item]  # matplotlib's own dashes
}


def draw(tables: Mapping[str, Table], folder: Path) -> list[Path]:
    """Every picture whose figures are there."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
        "tail-independent": (("alone",), _alone),
        "tail-queueing": (("sweep at once", "sweep never"), _sweep),
        "tail-slowdown": (("slowdown",), _slowdown),
        "tail-fan-out": (("fan-out",), _fan_out),
    }
    drawn = []
    with mpl.rc_context(STYLE):
        for name, (needs, picture) in pictures.items():
            if not all(key in tables for key in needs):
                continue
            figure = picture(pyplot, *(tables[key] for key in needs))
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None, "Creator": None})
            pyplot.close(figure)
            drawn.append(path)
    return drawn


def _alone(pyplot: Any, table: Table) -> Any:
    lines: Lines = {
        "one copy": (GREY, ":", ""),
        "Hedged, target 0.99": (RED, "-", ""),
        "Hedged, target 0.999": (BLUE, "--", ""),
        "both at once": (GREEN, "-.", ""),
    }
    figure, axes = pyplot.subplots(figsize=(7, 3.8))
    for name, (colour, kind, _) in lines.items():
        points = table.curves[name]
        extra = table.mean(name, "extra")
        axes.plot(
            [t for t, _ in points],
            [left for _, left in points],
            color=colour,
            linestyle=kind,
            label=f"{name}: {extra:.{1 if extra < 10 else 0}f} % extra" if extra else name,
        )
    for target, colour in zip(TARGETS, (RED, BLUE), strict=True):
        best = single_r(survival, target, BUDGET).value
        label = f"optimum for {target}: {best:.1f} ms"
        axes.plot(
            [best], [1 - target], "X", color=colour, markersize=9, markeredgewidth=0,
            label=label, zorder=5,
        )  # fmt: skip
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(2, 150),
        ylim=(6e-4, 1.05),
        xlabel="milliseconds until the answer",
        ylabel="part of queries that take longer",
    )
    _plain(axes.xaxis, [2, 5, 10, 20, 50, 100])
    axes.set_yticks([1, 0.1, 0.01, 0.001], ["1", "0.1", "0.01", "0.001"])
    axes.legend(loc="upper right", fontsize=9)
    return figure


def _plain(axis: Any, ticks: list[float]) -> None:
    """Numbers as they are spoken, where the scale is logarithmic."""
    axis.set_ticks(ticks, [f"{tick:,g}".replace(",", " ") for tick in ticks])
    axis.set_ticks([], minor=True)


def _sweep(pyplot: Any, *tables: Table) -> Any:
    figure, both = pyplot.subplots(1, 2, figsize=(8.6, 3.8), sharey=True)
    for axes, table, what in zip(both, tables, ("at once", "never"), strict=True):
        for name, points in table.curves.items():
            colour, kind, marker = WAYS[name]
            axes.plot(
                [point[0] for point in points],
                [point[2] for point in points],
                color=colour,
                linestyle=kind,
                marker=marker,
                label=name,
            )
        axes.set(
            yscale="log",
            xlabel="load ρ",
            title=f"cancellation frees the server: {what}",
            ylim=(15, 4000),
        )
    both[0].set_ylabel("p99, milliseconds")
    _plain(both[0].yaxis, [20, 50, 100, 200, 500, 1000, 2000])
    both[0].legend(loc="upper left", fontsize=9)
    both[1].legend(loc="upper left", fontsize=9)
    return figure


def _slowdown(pyplot: Any, table: Table) -> Any:
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(7, 4.4), sharex=True, height_ratios=(2, 1)
    )
    for name, points in table.curves.items():
        colour, kind, _ = WAYS[name]
        moments = [point[0] for point in points]
        above.plot(
            moments, [point[2] for point in points], color=colour, linestyle=kind, label=name
        )
        if name == BOTH:
            below.plot(moments, [point[3] for point in points], color=colour, linestyle=kind)
    for axes in (above, below):
        axes.axvspan(0, 60, color=INK, alpha=0.12, linewidth=0)
    below.axhline(100 * BUDGET, color=INK, linestyle=":", linewidth=1.2)
    below.annotate(
        "budget", (0.01, 100 * BUDGET), xycoords=("axes fraction", "data"), va="bottom", fontsize=9
    )
    above.set(yscale="log", ylabel="p99, milliseconds")
    _plain(above.yaxis, [20, 50, 100, 200, 500, 1000, 2000])
    above.legend(loc="upper right", fontsize=9)
    top = max(point[3] for point in table.curves[BOTH])
    below.set(
        xlabel="seconds since all servers became 10 × slower, for a minute",
        ylabel="extra requests, %",
        ylim=(0, max(8.0, math.ceil(top) + 1)),
    )
    return figure


def _fan_out(pyplot: Any, table: Table) -> Any:
    lines: Lines = {
        P2C: (BLUE, "--", "^"),
        "Hedged, target 0.99": (RED, "-", "o"),
        "Hedged, target 0.999": (GREEN, "-.", "D"),
    }
    figure, axes = pyplot.subplots(figsize=(7, 3.6))
    for name, (colour, kind, marker) in lines.items():
        points = table.curves[name]
        axes.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            color=colour,
            linestyle=kind,
            marker=marker,
            label=name,
        )
    axes.set(xscale="log", xlabel="shards asked by each query", ylabel="p50, milliseconds")
    axes.set_ylim(bottom=0)
    _plain(axes.xaxis, list(map(float, FAN_OUTS)))
    axes.legend(loc="upper left", fontsize=9)
    return figure
