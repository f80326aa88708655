"""Learning curves against steps and against time, and performance profiles, from scripts/results/learning.

    python -m scripts.tables.learning_curves [--output scripts/results/learning.png]

Curves: interquartile mean over seeds, and the range of their middle half. Time: each run's own, at an even pace, on
whatever machine it ran on. Profiles: share of seeds whose evaluation is above a return.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scripts.records import RESULTS
from scripts.tables.learning import OURS, grouped, label
from scripts.tables.rl_statistics import interquartile_mean, performance_profile, return_at

POINTS = 200
#: one for each algorithm in every column; ours, of which a column has one, share theirs
COLOURS = {
    "a2c": "C0",
    "a2c-state-baseline": "C1",
    "ppo": "C2",
    "trpo": "C4",
    "relaxa2c-exact": "C5",
    "a2c-same-rate": "C6",
}
COLOURS |= dict.fromkeys(OURS, "C3")


def middle_half(axis: Axes, x: np.ndarray, runs: np.ndarray, band: bool = True, **style: Any) -> str:
    """Interquartile mean of ``runs [seeds, points]`` and, as a band, their middle half; returns the line's colour."""
    (line,) = axis.plot(x, interquartile_mean(runs, axis=0), **style)
    if band:
        axis.fill_between(x, *np.quantile(runs, (0.25, 0.75), axis=0), alpha=0.2, color=line.get_color(), linewidth=0)
    return line.get_color()


def draw(groups: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> Figure:
    """A column for each environment; steps, time and profiles down."""
    figure = Figure(figsize=(4 * len(groups), 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(groups), squeeze=False)
    for column, (env, algorithms) in enumerate(groups.items()):
        by_steps, by_time, profile = axes[:, column]
        everything = [np.mean(r["evaluation"]) for rs in algorithms.values() for r in rs]
        thresholds = np.linspace(min(everything) - 1, max(everything) + 1, 400)
        for name, records in sorted(algorithms.items()):
            steps = np.linspace(0, min(r["timesteps"] for r in records), POINTS + 1)[1:]
            returns = np.array([return_at(record, steps) for record in records])
            minutes = np.mean([r["seconds"] / r["timesteps"] for r in records]) * steps / 60
            for axis, x in ((by_steps, steps), (by_time, minutes)):
                middle_half(axis, x, returns, label=label(name), color=COLOURS.get(name))
            scores = [float(np.mean(r["evaluation"])) for r in records]
            profile.step(thresholds, performance_profile(scores, thresholds), where="post", color=COLOURS.get(name))
        by_steps.set(title=env, xlabel="steps")
        by_time.set(xlabel="minutes")
        profile.set(xlabel="evaluation", ylim=(-0.02, 1.02))
        by_steps.legend(loc="lower right", fontsize="small")
    for axis, quantity in zip(axes[:, 0], ("return", "return", "share of seeds above it"), strict=True):
        axis.set_ylabel(quantity)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "learning.png")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    draw(grouped("learning")).savefig(options.output, dpi=75)
    print(options.output)


if __name__ == "__main__":
    main()
