"""The tables of values that the preset has or could have: on tuning seeds, and on the benchmark's before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scripts.tables.ablation import same_seed_differences
from scripts.tables.benchmark import returns_during_training, task_of
from scripts.tables.learning import grouped, interval

#: names of the arms with targets of one length for all tasks, the shortest first
TARGETS = ("0.002", "0.002 √D", "0.002 D")


def values_table(arms: Mapping[str, tuple[str, str]]) -> str:
    """Each value's return during training: the mean over tuning seeds, and every seed's.

    :param arms: the value, as the table calls it → the protocol that has its runs, and their name there. Tasks
        that all of them have make a row, in the order of the first protocol.
    """
    of_protocol = {protocol: grouped(protocol) for protocol, _ in arms.values()}
    first, _ = next(iter(arms.values()))
    rows = ["| task (steps) | " + " | ".join(arms) + " |", "|---|" + "---|" * len(arms)]
    for env in of_protocol[first]:
        of_arms = [of_protocol[protocol].get(env, {}).get(name, []) for protocol, name in arms.values()]
        if all(of_arms):
            rows.append(f"| {task_of(of_arms[0])} | {cells_of_seeds(of_arms)} |")
    return "\n".join(rows)


def targets_table() -> str:
    """The same of each length of a natural gradient's steps, beside the number of action variables."""
    rows = [
        "| task (steps) | D | " + " | ".join(f"{arm} nats" for arm in TARGETS) + " |",
        "|---|---|" + "---|" * len(TARGETS),
    ]
    for algorithms in grouped("target_kl").values():
        shortest, *_, longest = of_arms = [algorithms[arm] for arm in TARGETS]
        d = longest[0]["hyperparams"]["target_kl"] / shortest[0]["hyperparams"]["target_kl"]
        rows.append(f"| {task_of(shortest)} | {d:.0f} | {cells_of_seeds(of_arms)} |")
    return "\n".join(rows)


def before_and_after_table(before: tuple[str, str, str], after: tuple[str, str, str]) -> str:
    """Return during training with an earlier value and with a later one, on the same seeds.

    :param before: the value, as the table calls it; the protocol that has its runs, and their name there.
        Tasks that both have make a row, in the order of this protocol.
    :param after: the same of the later value
    """
    (old_value, old_protocol, old_arm), (new_value, new_protocol, new_arm) = before, after
    rows = [f"| task (steps) | seeds | {old_value} | {new_value} | more, same seeds |", "|---|---|---|---|---|"]
    new = grouped(new_protocol)
    for env, algorithms in grouped(old_protocol).items():
        if not (later := new.get(env, {}).get(new_arm)):
            continue
        earlier = algorithms[old_arm]
        gains = same_seed_differences(later, earlier)
        means = " | ".join(interval(returns_during_training(records)) for records in (earlier, later))
        rows.append(f"| {task_of(earlier)} | {len(gains)} | {means} | {interval(gains)} |")
    return "\n".join(rows)


def cells_of_seeds(of_arms: list[list[dict[str, Any]]]) -> str:
    """A cell for each arm: the mean and, in brackets, every seed's, with a digit more where they are small."""
    cells = []
    for values in map(returns_during_training, of_arms):
        form = ",.0f" if max(map(abs, values)) >= 1000 else ".1f"
        mean, *each = (format(value, form) for value in (np.mean(values), *values))
        cells.append(f"{mean} ({', '.join(each)})")
    return " | ".join(cells)
