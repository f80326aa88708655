"""The table of how far the preset's advantages should look ahead."""

from __future__ import annotations

from scripts.tables.benchmark import returns_during_training, task_of
from scripts.tables.learning import grouped
from scripts.tables.target_kl import each_seed

#: values of λ, as the protocol names them
LAMBDAS = ("0.9", "0.95", "0.98")


def gae_lambda_table() -> str:
    """Each λ's return during training: the mean over tuning seeds, and every seed's."""
    rows = ["| task (steps) | " + " | ".join(f"λ = {arm}" for arm in LAMBDAS) + " |", "|---|" + "---|" * len(LAMBDAS)]
    for algorithms in grouped("gae_lambda").values():
        of_arms = [algorithms[arm] for arm in LAMBDAS]
        cells = " | ".join(each_seed(returns_during_training(records)) for records in of_arms)
        rows.append(f"| {task_of(of_arms[0])} | {cells} |")
    return "\n".join(rows)
