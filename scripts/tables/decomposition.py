"""README's table of the decomposition, from scripts/results/decomposition."""

from __future__ import annotations

from scripts.records import RESULTS, Records
from scripts.tables.diagnose import ratio, short

COLUMNS = (
    "environment",
    "steps",
    "λ",
    "V(s): variance",
    "Σ_τ",
    "Σ_a",
    "Σ_s",
    "none",
    "best b(s, steps left)",
    "ĉ(s)",
    "LAX or RELAX",
    "exact",
    "over rollouts: ĉ(s)",
    "LAX or RELAX",
    "LAX or RELAX ÷ ĉ(s)",
)


def table() -> str:
    """One line per environment, stage and λ."""
    rows = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for record in sorted(Records(RESULTS / "decomposition").read(), key=lambda r: (r["env"], r["timesteps"])):
        at = {(row["name"], row["gae_lambda"]): row for row in record["rows"]}
        ours = "LAX" if record["algorithm"] == "LAXA2C" else "RELAX"
        for gae_lambda in record["settings"]["lambdas"]:
            v, cv, state = (at[name, gae_lambda] for name in ("V(s)", ours, "ĉ(s)"))
            exact = at.get(("exact", gae_lambda))
            future, in_state = (v[part]["value"] / v["total"]["value"] for part in ("future", "state"))
            cells = [short(v["total"]["value"]), f"{future:.2f}", ratio(v["action_share"]), f"{in_state:.2f}"]
            cells += [ratio(at[name, gae_lambda]["ratio"]) for name in ("none", "best b(s)", "ĉ(s)")]
            cells += [ratio(cv["ratio"]), ratio(exact and exact["ratio"])]
            cells += [ratio(number) for number in (state["rollouts_ratio"], cv["rollouts_ratio"], cv["beside_state"])]
            rows.append(f"| {record['env']} | {record['timesteps']:,} | {gae_lambda:g} | " + " | ".join(cells) + " |")
    return "\n".join(rows)
