"""The table of how far the preset's advantages should look ahead."""

from __future__ import annotations

from scripts.tables.benchmark import returns_during_training, task_of
from scripts.tables.learning import grouped
from scripts.tables.target_kl import each_seed

#: values of λ, as the protocol names them
LAMBDAS = ("0.95", "0.9")


def gae_lambda_table() -> str:
    """Each λ's return during training: the mean over tuning seeds, and every seed's."""
    rows = ["| task (steps) | " + " | ".join(f"λ = {arm}" for arm in LAMBDAS) + " |", "|---|" + "---|" * len(LAMBDAS)]
    for algorithms in grouped("gae_lambda").values():
        cells = " | ".join(each_seed(returns_during_training(algorithms[arm])) for arm in LAMBDAS)
        rows.append(f"| {task_of(algorithms[LAMBDAS[0]])} | {cells} |")
    return "\n".join(rows)
