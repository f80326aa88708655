"""README's first table of results: every task of the benchmark, and what control variates add to a state baseline.

The latter is of runs with settings that each control variate has chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scripts.tables.benchmark import NAMES, returns_during_training, steps_of
from scripts.tables.learning import grouped, interval
from scripts.tables.variates import CONTROL, arms, more_than_control

#: arms that read no actions
STATE_ONLY = ("none", CONTROL)


def front_table(folder: str = "benchmark") -> str:
    """Return during training, and steps to the threshold, of every task that has a row of ours."""
    heads = ("task (steps; threshold)", *NAMES.values(), "return with the best ĉ of actions, less that with ĉ(s)")
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    variates = arms("tuned_variates")
    for env, algorithms in grouped(folder).items():
        if "fast" in algorithms:
            first = algorithms["fast"][0]
            task = f"{env} ({first['hyperparams']['n_timesteps']:,.0f}; {first['threshold']:g})"
            cells = [cell(algorithms.get(name)) for name in NAMES]
            rows.append(f"| {task} | " + " | ".join((*cells, best_gain(variates.get(env, {})))) + " |")
    return "\n".join(rows)


def cell(records: Sequence[Mapping[str, Any]] | None) -> str:
    """Both figures of an algorithm's runs."""
    if not records:
        return "—"
    return f"{interval(returns_during_training(records))}; {steps_of(records, records[0]['threshold'])}"


def best_gain(algorithms: Mapping[str, list[dict[str, Any]]]) -> str:
    """The most that a control variate of actions adds to the return during training with ĉ(s), and which it is."""
    gains = {name: more_than_control(algorithms, name) for name in algorithms if name not in STATE_ONLY}
    gains = {name: values for name, values in gains.items() if values}
    if not gains:
        return "—"
    best = max(gains, key=lambda name: sum(gains[name]) / len(gains[name]))
    return f"{interval(gains[best])} (`{best}`)"
