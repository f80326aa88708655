"""README's table of diagnoses, from scripts/results/diagnose."""

from __future__ import annotations

import json
from typing import Any

from sb3_relax.diagnose.verdict import BASELINES
from scripts.records import RESULTS


def ratio(number: dict[str, Any] | None) -> str:
    if number is None:
        return "—"
    value, low, high = (short(number[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def short(value: float) -> str:
    return f"{value:.2f}" if 0.1 <= abs(value) < 10 else f"{value:.2g}"


def table() -> str:
    """One line per environment, λ and control variate."""
    rows = [
        "| environment | λ | Σ_a of V(s)'s variance | best b(s, steps left), per step ÷ V(s) | | per step ÷ V(s) "
        "| over rollouts ÷ V(s) | ÷ ĉ(s) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in (json.loads(path.read_text()) for path in sorted((RESULTS / "diagnose").glob("*.json"))):
        at = {(row["name"], row["gae_lambda"]): row for row in record["rows"]}
        for row in record["rows"]:
            if row["name"] in BASELINES:
                continue
            gae_lambda = row["gae_lambda"]
            rows.append(
                f"| {record['env']} | {gae_lambda:g} | {ratio(at['V(s)', gae_lambda]['action_share'])} "
                f"| {ratio(at['best b(s)', gae_lambda]['ratio'])} | {row['name']} | {ratio(row['ratio'])} "
                f"| {ratio(row['rollouts_ratio'])} | {ratio(row['beside_state'])} |"
            )
    return "\n".join(rows)
