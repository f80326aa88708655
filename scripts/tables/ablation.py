"""The table of the ablation: each part added on the way from A2C to the preset, and each left out of the preset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from sb3_relax.compare.statistics import mean_return_during_training
from scripts.records import ROOT
from scripts.tables.benchmark import steps_of
from scripts.tables.learning import grouped, interval

PROTOCOL = ROOT / "scripts" / "protocols" / "ablation.yml"
#: a protocol's names → what the table calls them, where it is not the same
NAMES = {"a2c": "A2C", "fast": '**`preset="fast"`**'}


def ablation_table(folder: str = "ablation") -> str:
    """Every arm's return during training, and how much less it is than the preset's with the same seed."""
    rows = [
        "| task | arm | seeds | return during training | less than the preset | steps to the threshold |",
        "|---|---|---|---|---|---|",
    ]
    tasks = yaml.safe_load(PROTOCOL.read_text())
    for env, arms in grouped(folder).items():
        preset = arms.get("fast", [])
        for name in tasks[env]["algorithms"]:
            if name not in arms:
                continue
            own = by_seed(arms[name])
            losses = [] if name == "fast" else same_seed_differences(preset, arms[name])
            rows.append(
                f"| {env} | {NAMES.get(name, name)} | {len(own)} | {interval(list(own.values()))} "
                f"| {interval(losses) if losses else '—'} | {steps_of(arms[name], tasks[env]['threshold'])} |"
            )
    return "\n".join(rows)


def by_seed(records: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Seed → return during training."""
    return {record["seed"]: mean_return_during_training(record) for record in records}


def same_seed_differences(records: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> list[float]:
    """Return during training less the others', of each seed that both have."""
    own, other = by_seed(records), by_seed(others)
    return [own[seed] - other[seed] for seed in own if seed in other]
