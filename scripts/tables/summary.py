"""README's summary: steps to the threshold on every task, as the learning runs and the tuned ones have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scripts.tables.learning import OURS, grouped, interval, ratio_interval, solved_of, variance_ratios, variances

#: folder of the records → what a row of theirs is called after its environment
PROTOCOLS = {"learning": "", "tuned": ", all tuned alike"}
#: of what stands beside ours; PPO has rl-zoo's values, or those of the same search
BESIDE = ("a2c-state-baseline", "a2c", "ppo")


def steps_to_threshold(records: list[dict[str, Any]] | None) -> str:
    """Mean over seeds ± half of the 95% t-interval; a run that never reaches it counts with its whole budget."""
    if not records:
        return "—"
    steps = [float(record["solved_at"] or record["timesteps"]) for record in records]
    return f"{interval(steps)} ({solved_of(records)})"


def row(env: str, suffix: str, algorithms: Mapping[str, list[dict[str, Any]]]) -> str:
    (ours,) = (name for name in OURS if name in algorithms)
    ratio = ratio_interval([variance_ratios(variances(record)).together for record in algorithms[ours]])
    cells = [steps_to_threshold(algorithms.get(name)) for name in (ours, *BESIDE)]
    return f"| {env} ({algorithms[ours][0]['threshold']:g}){suffix} | " + " | ".join((*cells, ratio)) + " |"


def summary_table() -> str:
    """A row for every environment of every protocol: with ĉ(a, s), with ĉ(s), without ĉ, PPO; and the variance."""
    rows = [
        "| task (threshold) | LAXA2C or RELAXA2C | A2C with ĉ(s) | A2C (ĉ = 0) | PPO | gradient variance ÷ without ĉ |",
        "|---|---|---|---|---|---|",
    ]
    for folder, suffix in PROTOCOLS.items():
        rows += [row(env, suffix, algorithms) for env, algorithms in grouped(folder).items()]
    return "\n".join(rows)
