"""The tables of how long a natural gradient's steps should be."""

from __future__ import annotations

import numpy as np

from scripts.tables.ablation import same_seed_differences
from scripts.tables.benchmark import returns_during_training, task_of
from scripts.tables.learning import grouped, interval

#: names of the arms with fixed targets, in the order of their length
FIXED = ("0.002", "0.002 √D", "0.002 D")


def fixed_table() -> str:
    """Each fixed target's return during training: the mean over tuning seeds, and every seed's."""
    rows = [
        "| task (steps) | D | " + " | ".join(f"{arm} nats" for arm in FIXED) + " |",
        "|---|---|" + "---|" * len(FIXED),
    ]
    for algorithms in grouped("target_kl").values():
        shortest, longest = (algorithms[arm][0]["hyperparams"] for arm in (FIXED[0], FIXED[-1]))
        cells = " | ".join(each_seed(returns_during_training(algorithms[arm])) for arm in FIXED)
        d = longest["target_kl"] / shortest["target_kl"]
        rows.append(f"| {task_of(algorithms[FIXED[0]])} | {d:.0f} | {cells} |")
    return "\n".join(rows)


def each_seed(values: list[float]) -> str:
    """Mean (one after the other), with a digit more where they are small."""
    form = ",.0f" if max(map(abs, values)) >= 1000 else ".1f"
    mean, *each = (format(value, form) for value in (np.mean(values), *values))
    return f"{mean} ({', '.join(each)})"


def grown_table() -> str:
    """Return during training of the benchmark's runs, and of the same with 0.002 nats for any D, on the same seeds."""
    rows = [
        "| task (steps) | seeds | 0.002 nats | 0.002 √D nats | more, same seeds |",
        "|---|---|---|---|---|",
    ]
    grown = grouped("benchmark")
    for env, algorithms in grouped("fixed_kl").items():
        before, now = algorithms["fixed"], grown[env]["fast"]
        gains = same_seed_differences(now, before)
        rows.append(
            f"| {task_of(before)} | {len(gains)} "
            f"| {interval(returns_during_training(before))} | {interval(returns_during_training(now))} "
            f"| {interval(gains)} |"
        )
    return "\n".join(rows)
