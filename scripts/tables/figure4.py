"""Figure 4: return, and log-variance of the policy gradient per step, by episode, from the records of Table 2.

    python -m scripts.tables.figure4 [--output scripts/results/table2/figure4.png]

Curves: interquartile mean over seeds of a running mean over episodes, and the range of their middle half. Variance is
that over the steps of one update, summed over the action distribution's parameters, at each algorithm's own policy, as
applied (with ĉ) and, for ours, on the same batches without it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scripts.records import RESULTS
from scripts.tables.learning import label
from scripts.tables.learning_curves import middle_half
from scripts.tables.table2 import table2_groups

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


def draw(groups: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> Figure:
    """A column for each environment: returns above, log-variance below."""
    figure = Figure(figsize=(5 * len(groups), 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(groups), squeeze=False, sharex="col")
    for column, (env, algorithms) in enumerate(groups.items()):
        top, bottom = axes[:, column]
        for name, records in sorted(algorithms.items()):
            episodes = min(len(r["episode_returns"]) for r in records)
            curves = [
                (top, [r["episode_returns"] for r in records], "-"),
                (bottom, [by_episode(r, 1) for r in records], "-"),
            ]
            if name != "a2c":
                curves.append((bottom, [by_episode(r, 2) for r in records], ":"))
            color = None
            for axis, values, style in curves:
                smooth = np.array([running_mean(np.asarray(run[:episodes])) for run in values])
                look = {"linestyle": style, "label": label(name), "color": color}
                color = middle_half(axis, np.arange(episodes), smooth, band=style == "-", **look)
        top.set_title(env)
        top.legend(loc="lower right", fontsize="small")
        bottom.set_xlabel("episodes")
    axes[0][0].set_ylabel("return")
    axes[1][0].set_ylabel("log-variance per step, within an update\n(dotted: without ĉ)")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "table2" / "figure4.png")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    draw(table2_groups()).savefig(options.output, dpi=75)
    print(options.output)


if __name__ == "__main__":
    main()
