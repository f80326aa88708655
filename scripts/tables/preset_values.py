"""The tables of values that the preset could have in place of its own, on tuning seeds."""

from __future__ import annotations

from collections.abc import Mapping

from scripts.tables.benchmark import returns_during_training, task_of
from scripts.tables.learning import grouped
from scripts.tables.target_kl import each_seed


def preset_values_table(arms: Mapping[str, tuple[str, str]]) -> str:
    """Each value's return during training: the mean over tuning seeds, and every seed's.

    :param arms: the value, as the table calls it → the protocol that has its runs, and their name there. The first
        protocol says which tasks there are.
    """
    of_protocol = {protocol: grouped(protocol) for protocol, _ in arms.values()}
    first, _ = next(iter(arms.values()))
    rows = ["| task (steps) | " + " | ".join(arms) + " |", "|---|" + "---|" * len(arms)]
    for env in of_protocol[first]:
        of_arms = [of_protocol[protocol][env][name] for protocol, name in arms.values()]
        cells = " | ".join(each_seed(returns_during_training(records)) for records in of_arms)
        rows.append(f"| {task_of(of_arms[0])} | {cells} |")
    return "\n".join(rows)
