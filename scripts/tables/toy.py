"""Tables of the toy, from scripts/results/toy."""

from __future__ import annotations

import json

from sb3_relax.tasks.intervals import plus_minus
from scripts.records import RESULTS


def toy_table() -> str:
    rows = ["| estimator | loss over its optimum, at the end | log variance, at the end |", "|---|---|---|"]
    for row in json.loads((RESULTS / "toy" / "record.json").read_text())["summary"]:
        loss, half = row["excess_loss"] * 1e4, row["excess_loss_interval"]
        rows.append(
            f"| {row['case']} | {plus_minus(loss, None if half is None else half * 1e4, '.2f')} "
            f"| {plus_minus(row['log_variance'], row['log_variance_interval'], '.1f')} |"
        )
    return "\n".join(rows)


def rebar_table() -> str:
    """Var[REBAR] ÷ Var[REINFORCE] at the best η of each τ, per target, coupled."""
    cells = [c for c in json.loads((RESULTS / "toy" / "rebar.json").read_text())["rows"] if c["coupled"]]
    temperatures = list(dict.fromkeys(cell["temperature"] for cell in cells))
    rows = ["| t | " + " | ".join(f"τ = {tau:,g}" for tau in temperatures) + " |", "|---|" + "---|" * len(temperatures)]
    for target in dict.fromkeys(cell["target"] for cell in cells):
        of_target = {c["temperature"]: f"{c['ratio']:.3f}" for c in cells if c["target"] == target}
        rows.append(f"| {target:g} | " + " | ".join(of_target[tau] for tau in temperatures) + " |")
    return "\n".join(rows)
