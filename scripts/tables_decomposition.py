"""README's table of the decomposition, from scripts/results/decomposition."""

from __future__ import annotations

from typing import Any

from decompose import STAGES
from records import RESULTS, read_records
from tables_diagnose import ratio


def share(row: dict[str, Any], part: str) -> str:
    """A part of the variance over the whole, with its standard error (the whole's own error left out)."""
    number, total = row[part], row["total"]["value"]
    return f"{number['value'] / total:.2f} ± {number['standard_error'] / total:.1g}"


def table() -> str:
    """One line per environment, stage and λ."""
    rows = [
        "| environment | steps | λ | with V(s): Σ_τ | Σ_a | Σ_s | none ÷ V(s) | best b(s, steps left) ÷ V(s) "
        "| LAX or RELAX ÷ V(s) | exact ÷ V(s) | LAX or RELAX, over rollouts |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    records = read_records(RESULTS / "decomposition")
    order = list(STAGES)
    for record in sorted(records, key=lambda r: (r["env"], order.index(r["stage"]))):
        at = {(row["name"], row["gae_lambda"]): row for row in record["rows"]}
        ours = "LAX" if record["algorithm"] == "LAXA2C" else "RELAX"
        for gae_lambda in record["settings"]["lambdas"]:
            v, cv, exact = (at.get((name, gae_lambda)) for name in ("V(s)", ours, "exact"))
            cells = [share(v, part) for part in ("future", "action", "state")]
            cells += [ratio(at[name, gae_lambda]["ratio"]) for name in ("none", "best b(s)")]
            cells += [ratio(cv["ratio"]), "—" if exact is None else ratio(exact["ratio"]), ratio(cv["rollouts_ratio"])]
            rows.append(f"| {record['env']} | {record['timesteps']:,} | {gae_lambda:g} | " + " | ".join(cells) + " |")
    return "\n".join(rows)
