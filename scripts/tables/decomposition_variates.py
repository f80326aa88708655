"""What each control variate takes of which part of the variance, from scripts/results/decomposition_variates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sb3_relax.diagnose.verdict import BASELINES
from scripts.records import RESULTS, Records
from scripts.tables.diagnose import ratio, short

COLUMNS = (
    "environment",
    "steps",
    "λ",
    "V(s): Σ_τ, Σ_a, Σ_s",
    "control variate",
    "Σ_τ left",
    "Σ_a left",
    "one step ÷ V(s)",
    "over rollouts ÷ V(s)",
    "÷ ĉ(s)",
    "share: own action, later ones",
)


def table(folder: str = "decomposition_variates") -> str:
    """One line per policy, λ and control variate, ĉ(s) first."""
    rows = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for record in records_in(folder):
        at = {(row["name"], row["gae_lambda"]): row for row in record["rows"]}
        for row in record["rows"]:
            if row["name"] in BASELINES[:-1]:
                continue
            with_value = at["V(s)", row["gae_lambda"]]
            cells = [record["env"], f"{record['timesteps']:,}", f"{row['gae_lambda']:g}", parts_of(with_value)]
            cells += [name_of(row["name"]), left(row, with_value, "future"), left(row, with_value, "action", "noise")]
            cells += [ratio(row[name]) for name in ("ratio", "rollouts_ratio", "beside_state")]
            rows.append("| " + " | ".join((*cells, shares_of(row))) + " |")
    return "\n".join(rows)


def over_rollouts(folder: str) -> str:
    """One line per policy and λ: the variance over whole rollouts with each control variate, divided by V(s)'s."""
    ratios: dict[tuple[str, int, float], dict[str, Any]] = {}
    for record in records_in(folder):
        for row in record["rows"]:
            if row["name"] not in BASELINES[:-1]:
                policy = record["env"], record["timesteps"], row["gae_lambda"]
                ratios.setdefault(policy, {})[row["name"]] = row["rollouts_ratio"]
    names = list(dict.fromkeys(name for of in ratios.values() for name in of))
    heads = ("environment", "steps", "λ", *map(name_of, names))
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for (env, steps, gae_lambda), of in ratios.items():
        cells = [ratio(of[name]) if name in of else "—" for name in names]
        rows.append(f"| {env} | {steps:,} | {gae_lambda:g} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def records_in(folder: str) -> list[dict[str, Any]]:
    """By environment, and the earliest policy first."""
    return sorted(Records(RESULTS / folder).read(), key=lambda record: (record["env"], record["timesteps"]))


def parts_of(row: Mapping[str, Any]) -> str:
    """Shares of the three parts in a row's variance."""
    return ", ".join(f"{row[part]['value'] / row['total']['value']:.2f}" for part in ("future", "action", "state"))


def left(row: Mapping[str, Any], with_value: Mapping[str, Any], *parts: str) -> str:
    """What a control variate leaves of parts of the variance with V(s)."""
    own, plain = (sum(each[part]["value"] for part in parts) for each in (row, with_value))
    return short(own / plain) if plain > 0 else "—"


def shares_of(row: Mapping[str, Any]) -> str:
    """How much of each of its parts is applied."""
    later = row.get("later_share")
    return f"{row['share']:.2f}, {'—' if later is None else f'{later:.2f}'}"


def name_of(name: str) -> str:
    """A control variate's, as code where it is what a user writes."""
    return name if name[0].isupper() or name in (*BASELINES, "exact") else f"`{name}`"
