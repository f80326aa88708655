"""The table of how long a natural gradient's step should be where an action has several variables."""

from __future__ import annotations

import numpy as np

from scripts.tables.benchmark import returns_during_training
from scripts.tables.learning import grouped

#: names of the protocol's arms, in the order of their length
ARMS = ("0.002", "0.002 √D", "0.002 D")


def target_kl_table() -> str:
    """Each arm's return during training: the mean over tuning seeds, and every seed's."""
    rows = [
        "| task (steps) | D | " + " | ".join(f"{arm} nats" for arm in ARMS) + " |",
        "|---|---|" + "---|" * len(ARMS),
    ]
    for env, algorithms in grouped("target_kl").items():
        (first, *_), of_d = algorithms[ARMS[0]], algorithms[ARMS[-1]][0]
        d = of_d["hyperparams"]["target_kl"] / first["hyperparams"]["target_kl"]
        cells = " | ".join(each_seed(returns_during_training(algorithms[arm])) for arm in ARMS)
        rows.append(f"| {env} ({first['hyperparams']['n_timesteps']:,.0f}) | {d:.0f} | {cells} |")
    return "\n".join(rows)


def each_seed(values: list[float]) -> str:
    """Mean (one after the other)."""
    mean, *each = (f"{value:,.0f}" for value in (np.mean(values), *values))
    return f"{mean} ({', '.join(each)})"
