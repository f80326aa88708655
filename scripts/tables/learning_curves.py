"""Figures of the learning runs: three curves for README.md, and all algorithms of each environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sb3_relax.compare.statistics import performance_profile, return_at
from scripts.tables.drawing import COLOURS, in_thousands, middle_half, one_legend, panels
from scripts.tables.learning import label, ours_first

POINTS = 200
#: what README.md compares, in the order of its legend
THREE = ("relaxa2c", "a2c-state-baseline", "a2c")
Algorithms = Mapping[str, list[dict[str, Any]]]


def returns_of(records: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and every seed's return there, ``[seeds, steps]``."""
    steps = np.linspace(0, min(record["timesteps"] for record in records), POINTS + 1)[1:]
    return steps, np.array([return_at(record, steps) for record in records])


def three_curves(groups: Mapping[str, Algorithms]) -> Figure:
    """A panel for every environment that has all of :data:`THREE`.

    Curves: interquartile mean over seeds of the return of the last episode; bands: the middle half of the seeds.
    """
    complete = {env: algorithms for env, algorithms in groups.items() if all(name in algorithms for name in THREE)}
    figure, axes = panels(len(complete), height=3.4)
    for axis, (env, algorithms) in zip(axes, complete.items(), strict=True):
        for name in THREE:
            steps, returns = returns_of(algorithms[name])
            middle_half(axis, steps, returns, label=label(name), color=COLOURS[name])
        axis.set(title=f"{env}, {len(algorithms[THREE[0]])} seeds", xlabel="steps")
        in_thousands(axis)
    axes[0].set_ylabel("return")
    one_legend(figure, axes[0], columns=len(THREE))
    return figure


def all_curves(env: str, algorithms: Algorithms) -> Figure:
    """Every algorithm of one environment: returns against steps and against time, and performance profiles.

    Time is each run's own, at an even pace, on whatever machine it ran on. A profile is the share of seeds whose
    evaluation is above a return.
    """
    figure, (by_steps, by_time, profile) = panels(3, height=4.2)
    everything = [np.mean(r["evaluation"]) for rs in algorithms.values() for r in rs]
    thresholds = np.linspace(min(everything) - 1, max(everything) + 1, 400)
    for name in ours_first(algorithms):
        records = algorithms[name]
        steps, returns = returns_of(records)
        minutes = np.mean([r["seconds"] / r["timesteps"] for r in records]) * steps / 60
        for axis, x in ((by_steps, steps), (by_time, minutes)):
            middle_half(axis, x, returns, label=label(name), color=COLOURS.get(name))
        scores = [float(np.mean(r["evaluation"])) for r in records]
        profile.step(thresholds, performance_profile(scores, thresholds), where="post", color=COLOURS.get(name))
    by_steps.set_title(env, loc="left")
    by_steps.set(xlabel="steps", ylabel="return")
    by_time.set(xlabel="minutes")
    profile.set(xlabel="evaluation", ylabel="share of seeds above it", ylim=(-0.02, 1.02))
    in_thousands(by_steps)
    profile.locator_params(axis="x", nbins=4)
    one_legend(figure, by_steps, columns=3)
    return figure
