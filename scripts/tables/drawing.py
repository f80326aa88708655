"""What the figures share: their size on a page, a line over seeds with its band, and files that do not change."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sb3_relax.compare.statistics import interquartile_mean
from sb3_relax.files import write_whole
from scripts.tables.learning import OURS

#: inches; a page shows them about 850 pixels wide, at which 12 points are as large as its text
WIDTH = 8.5
STYLE = {"font.size": 12, "axes.titlesize": 12, "lines.linewidth": 1.5, "axes.spines.top": False}
STYLE |= {"axes.spines.right": False, "legend.frameon": False, "figure.constrained_layout.use": True}
DOTS_PER_INCH = 150
#: of an algorithm in every figure; ours, of which an environment has one, share theirs
COLOURS = {
    "a2c": "C0",
    "a2c-state-baseline": "C1",
    "ppo": "C2",
    "trpo": "C4",
    "relaxa2c-exact": "C5",
    "a2c-same-rate": "C6",
    "relaxa2c-a2c-rate": "C8",
}
COLOURS |= dict.fromkeys(OURS, "C3")


def panels(count: int, height: float, **sharing: Any) -> tuple[Figure, list[Axes]]:
    """A figure as wide as a page with so many panels in a row."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasAgg(figure)
        return figure, list(figure.subplots(1, count, squeeze=False, **sharing)[0])


def in_thousands(axis: Axes) -> None:
    """Steps, iterations or episodes along x: few ticks, as 50k and 1M."""
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.locator_params(axis="x", nbins=4)


def one_legend(figure: Figure, axis: Axes, columns: int) -> None:
    """Above all panels, of the lines of one of them."""
    with matplotlib.rc_context(STYLE):
        figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=columns)


def middle_half(axis: Axes, x: np.ndarray, runs: np.ndarray, band: bool = True, **style: Any) -> None:
    """Interquartile mean of ``runs [seeds, points]`` and, as a band, their middle half."""
    (line,) = axis.plot(x, interquartile_mean(runs, axis=0), **style)
    if band:
        axis.fill_between(x, *np.quantile(runs, (0.25, 0.75), axis=0), alpha=0.2, color=line.get_color(), linewidth=0)


def save(figures: Mapping[str, Figure], folder: Path) -> None:
    """Every figure as ``NAME.png``; the same figure gives the same bytes."""
    for name, figure in figures.items():
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(buffer, dpi=DOTS_PER_INCH, metadata={"Software": None})
        write_whole(folder / f"{name}.png", buffer.getvalue())
