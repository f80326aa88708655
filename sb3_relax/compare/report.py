"""What the runs say: one table with intervals, a sentence for each comparison, and one plot."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from math import comb, floor, log10
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sb3_relax.compare.statistics import (
    Interval,
    iqm,
    mean_return_during_training,
    probability_of_improvement,
    return_at,
)
from sb3_relax.files import write_whole

HEADS = (
    "",
    "return during training",
    "return at the end",
    "better than A2C",
    "gradient variance ÷ without ĉ",
    "seconds a run",
)
NOTE = (
    "Interquartile means over seeds [95% bootstrap intervals]. During training: the mean over all steps of the return "
    "of the episode that ended last. At the end: over the last tenth of the steps. Better than A2C: the share of pairs "
    "of runs in which this one has the higher return during training; half means no difference. Gradient variance: of "
    "one step, at the parameters of the action distribution, over all updates together. Intervals of few seeds are too "
    "narrow: whether there is a difference, the sentences above say."
)
#: of a test that calls a difference one
LEVEL = 0.05
#: points of a curve, each the mean over as many steps
POINTS, STEPS_EACH = 40, 5

Record = Mapping[str, Any]


class Side(NamedTuple):
    """One arm's runs."""

    label: str
    records: Sequence[Record]

    @property
    def during(self) -> list[float]:
        """Every run's mean return during training."""
        return [mean_return_during_training(record) for record in self.records]

    @property
    def at_the_end(self) -> list[float]:
        """Every run's, over the last tenth of its steps."""
        return [float(return_at(r, np.linspace(0.9, 1.0, 21)[1:] * r["timesteps"]).mean()) for r in self.records]


def table(sides: Sequence[Side], env_id: str, baseline: str) -> str:
    """In Markdown, with the sentences and the note.

    :param sides: those that have runs, in the order of the rows
    :param baseline: the label of that which the others are compared with
    """
    rows = [HEADS, *(_row(side, sides, baseline) for side in sides)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    first, *others = sides
    steps = max(record["timesteps"] for side in sides for record in side.records)
    counts = dict.fromkeys(map(_seeds, sides))  # one, unless runs have failed
    title = f"{env_id}, {steps:,} steps, {' or '.join(counts)}"
    sentences = [sentence(first, other) for other in others]
    return "\n".join([title, "", *lines, "", *sentences, "", NOTE, ""])


def sentence(ours: Side, theirs: Side) -> str:
    """Whether ours had more return during training, as far as the seeds can tell: Mann and Whitney's test."""
    from scipy import stats

    if not (_has_episodes(ours) and _has_episodes(theirs)):
        return f"{ours.label} and {theirs.label} cannot be compared: in some of their runs no episode ended."
    pair, n, m = f"{ours.label} and {theirs.label}", len(ours.records), len(theirs.records)
    if 2 / comb(n + m, n) >= LEVEL:
        return f"Between {pair} so few seeds cannot show a difference, whatever they find: take at least --seeds 4."
    wins, p_value = map(float, stats.mannwhitneyu(ours.during, theirs.during))
    if not p_value < LEVEL:  # NaN where all are the same
        return f"Between {pair} these seeds show no difference (p = {p_value:.2g})."
    more = "more" if wins > n * m / 2 else "less"  # as tested: medians may be level, or the other way round
    return f"{ours.label} had {more} return during training than {theirs.label} (p = {p_value:.2g})."


def draw(sides: Sequence[Side], env_id: str, path: Path) -> None:
    """Returns against steps: the mean over seeds, and as a band all of them, from the lowest to the highest.

    :param path: of the picture, PNG
    :raises ModuleNotFoundError: without matplotlib
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for side in filter(_has_episodes, sides):
        steps, returns = curves(side.records)
        (line,) = axis.plot(steps, returns.mean(0), label=f"{side.label}, {_seeds(side)}")
        axis.fill_between(steps, returns.min(0), returns.max(0), alpha=0.15, color=line.get_color(), linewidth=0)
    axis.set(title=f"{env_id}: mean over seeds, and their range", xlabel="steps", ylabel="return")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    if axis.lines:
        axis.legend()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    write_whole(path, picture.getvalue())


def curves(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Steps ``[POINTS]``, and every run's return there ``[runs, POINTS]``, a mean over the steps since the last."""
    shortest = min(record["timesteps"] for record in records)
    steps = np.linspace(0, shortest, POINTS * STEPS_EACH + 1)[1:]
    returns = np.array([return_at(record, steps) for record in records])
    return steps[STEPS_EACH - 1 :: STEPS_EACH], returns.reshape(len(records), POINTS, STEPS_EACH).mean(-1)


def _row(side: Side, sides: Sequence[Side], baseline: str) -> tuple[str, ...]:
    seconds = f"{np.median([record['seconds'] for record in side.records]):,.0f}"
    ratios = [record["variance_ratio"] for record in side.records if record["variance_ratio"] is not None]
    ratio = _written(iqm(ratios), len(ratios), 2) if ratios else "–"
    if not _has_episodes(side):
        return side.label, "no episode ended", "–", "–", ratio, seconds
    count = len(side.records)
    against = next((other for other in sides if other.label == baseline and _has_episodes(other)), None)
    better = "–"
    if against is not None and side.label != baseline:
        chance = probability_of_improvement({"": side.during}, {"": against.during})
        better = _written(chance, min(count, len(against.records)), 2)
    during, end = (_returns(iqm(scores), count) for scores in (side.during, side.at_the_end))
    return side.label, during, end, better, ratio, seconds


def _seeds(side: Side) -> str:
    return "1 seed" if len(side.records) == 1 else f"{len(side.records)} seeds"


def _has_episodes(side: Side) -> bool:
    return all(record["episode_returns"] for record in side.records)


def _returns(interval: Interval, count: int) -> str:
    """As many digits as tell small returns apart: three of the largest number where that is below 1."""
    largest = max(map(abs, interval))
    digits = 2 - floor(log10(largest)) if 0 < largest < 1 else 1
    return _written(interval, count, 0 if largest >= 1000 else digits)


def _written(interval: Interval, count: int, digits: int) -> str:
    """One run alone has no interval."""
    value, low, high = (f"{number:,.{digits}f}" for number in interval)
    return value if count == 1 else f"{value} [{low}, {high}]"
