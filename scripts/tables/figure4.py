"""The paper's Figure 4, one for each environment of Table 2: return, and log-variance of the gradient, by episode.

Curves: interquartile mean over seeds of a running mean over episodes, and the range of their middle half. Variance is
that over the steps of one update, summed over the action distribution's parameters, at each algorithm's own policy, as
applied (with ĉ) and, for ours, on the same batches without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scripts.tables.drawing import COLOURS, in_thousands, middle_half, one_legend, panels
from scripts.tables.learning import label, ours_first

#: episodes of the running mean
WINDOW = 20


def running_mean(values: np.ndarray) -> np.ndarray:
    """Of the last ``WINDOW``, from the first on."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - WINDOW, 0)
    return (sums[end] - sums[start]) / (end - start)


def by_episode(record: Mapping[str, Any], what: int) -> np.ndarray:
    """Log-variance of the first recorded update at or after each episode's end: with ĉ (1) or without (2)."""
    steps, logs = np.array([(row[0], np.log(max(row[what], 1e-300))) for row in record["variances"]]).T
    return logs[np.minimum(np.searchsorted(steps, record["episode_steps"]), len(steps) - 1)]


def draw(env: str, algorithms: Mapping[str, list[dict[str, Any]]]) -> Figure:
    """Returns beside log-variances."""
    figure, (left, right) = panels(2, height=4.2)
    for name, records in ((name, algorithms[name]) for name in ours_first(algorithms)):
        episodes = min(len(r["episode_returns"]) for r in records)
        curves = [
            (left, [r["episode_returns"] for r in records], "-"),
            (right, [by_episode(r, 1) for r in records], "-"),
        ]
        if name != "a2c":
            curves.append((right, [by_episode(r, 2) for r in records], ":"))
        for axis, values, style in curves:
            smooth = np.array([running_mean(np.asarray(run[:episodes])) for run in values])
            look = {"linestyle": style, "label": label(name), "color": COLOURS.get(name)}
            middle_half(axis, np.arange(episodes), smooth, band=style == "-", **look)
    left.set_title(env, loc="left")
    left.set(xlabel="episodes", ylabel="return")
    right.set(xlabel="episodes", ylabel="log-variance per step, in an update\n(dotted: without ĉ)")
    for axis in (left, right):
        in_thousands(axis)
    one_legend(figure, left, columns=3)
    return figure
