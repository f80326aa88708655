"""Tables of the gates beside scikit-learn's selectors, and beside the best of all subsets."""

from __future__ import annotations

from typing import Any

import numpy as np

from sb3_relax.tasks.comparison import mean_and_half
from sb3_relax.tasks.gates.problem import FeatureGates
from sb3_relax.tasks.intervals import plus_minus
from scripts.records import RESULTS, read_record

#: the estimator whose gates are compared, at each run's own number of features
COMPARED = "rloo"
#: what is told of a set: the key in the record → the heading
COLUMNS = {"cost": "f", "accuracy": "accuracy", "refitted": "accuracy, fitted anew"}


def record() -> dict[str, Any]:
    """What ``scripts.run.selectors`` has written."""
    return read_record(RESULTS / "gates" / "selectors.json")


def selectors_table(dataset: str = "digits") -> str:
    """The gates of every run of one estimator, and each selector less them, at as many features."""
    rows = [row for row in record()["rows"] if row["dataset"] == dataset]
    own = sorted((row for row in rows if row["by"] == COMPARED), key=lambda row: row["seed"])
    lines = [f"| features by | {' | '.join(COLUMNS.values())} |", "|---|" + "---|" * len(COLUMNS)]
    lines.append(table_row(f"gates, {COMPARED}", [[row[key] for row in own] for key in COLUMNS], ".3f"))
    selected = {(row["by"], len(row["features"])): row for row in rows if row["by"] not in FeatureGates.cases}
    for name in dict.fromkeys(name for name, _ in selected):
        less = [[selected[name, len(row["features"])][key] - row[key] for row in own] for key in COLUMNS]
        lines.append(table_row(f"{name}, less gates", less, "+.3f"))
    return "\n".join(lines)


def table_row(name: str, columns: list[list[float]], form: str) -> str:
    """Means over runs, and half of their intervals."""
    cells = []
    for values in columns:
        mean, half = mean_and_half(values)
        cells.append(plus_minus(mean, half, ".3f") if form == ".3f" else f"{mean:{form}} ± {half:.3f}")
    return f"| {name} | {' | '.join(cells)} |"


def subsets_table(dataset: str = "wine") -> str:
    """How far the modes' f is from the least that any subset has, and how many subsets are better."""
    found = record()
    (best,) = (entry for entry in found["best"] if entry["dataset"] == dataset)
    lines = ["| estimator | f of the mode, less the least | subsets that are better, by seed |", "|---|---|---|"]
    for name in FeatureGates.cases:
        own = sorted((r for r in found["rows"] if (r["dataset"], r["by"]) == (dataset, name)), key=lambda r: r["seed"])
        less = [row["cost"] - best["cost"] for row in own]
        better = [mode["better"] for mode in sorted(best["modes"], key=lambda m: m["seed"]) if mode["by"] == name]
        mean, half = mean_and_half(less)
        lines.append(f"| {name} | {plus_minus(mean, half, '.4f')} | {', '.join(map(str, better))} |")
    chosen = best["subsets"], float(np.round(best["cost"], 4))
    lines.append(f"| best of {chosen[0]:,} | f = {chosen[1]:.4f} | 0 |")
    return "\n".join(lines)
