"""Tables of "Which estimator?": variance × calls of f, REINFORCE = 1, median (worst) of the instances."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.records import RESULTS
from scripts.tables.bench import median_and_worst

#: what is called once, and what is called as often as one likes, as a black box
BLACK_BOXES = ("nvil", "relax", "rloo K=2", "disarm", "rloo K=3")
#: with ∂f
DIFFERENTIABLE = ("relax", "muprop", "rebar + residual", "double_cv K=2", "relaxed_double_cv K=2")
#: names in records that were written before an estimator had its own → its name
RENAMED = {"stein": "lax_curvature"}


def positive_table() -> str:
    """Gammas, Betas and a Dirichlet."""
    return _table(RESULTS / "which" / "positive.json")


def paired_table() -> str:
    """LAX's variance over the pathwise gradient's, instance by instance."""
    measured = json.loads((RESULTS / "which" / "positive.json").read_text())["rows"]
    variance = {(row["problem"], row["instance"], row["case"]): row["variance"] for row in measured}
    instances = sorted({row["instance"] for row in measured})
    rows = [
        "| lax ÷ reparam | " + " | ".join(f"instance {instance}" for instance in instances) + " |",
        "|---|" + "---|" * len(instances),
    ]
    for problem in dict.fromkeys(row["problem"] for row in measured):
        ratios = [variance[problem, i, "lax"] / variance[problem, i, "reparam (needs ∂f)"] for i in instances]
        rows.append(f"| {problem} | " + " | ".join(f"{ratio:.2g}" for ratio in ratios) + " |")
    return "\n".join(rows)


def peaked_table() -> str:
    """Sixteen classes, with logits of growing size."""
    return _table(RESULTS / "which" / "peaked.json", what="logits' standard deviation: ")


def normals_table() -> str:
    """Four normals, and f a quadratic or a distance."""
    return _table(RESULTS / "which" / "normals.json")


def classes_table() -> str:
    """Two variables of three, five and ten classes, and samples that exclude each other."""
    return _table(RESULTS / "which" / "classes.json", what="classes: ")


def black_box_table() -> str:
    """Estimators that need no ∂f, on the problems of the estimators' bench."""
    return _table(RESULTS / "estimators" / "variance.json", BLACK_BOXES)


def differentiable_table() -> str:
    """Estimators with ∂f, and RELAX without, on the same."""
    return _table(RESULTS / "estimators" / "variance.json", DIFFERENTIABLE)


def _table(path: Path, cases: Sequence[str] | None = None, what: str = "") -> str:
    """One row per case, one column per problem."""
    measured: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    cost = {(row["problem"], row["case"], row["instance"]): row["variance"] * row["evaluations"] for row in measured}
    problems = list(dict.fromkeys(row["problem"] for row in measured))
    rows = [
        "| estimator | calls of f | "
        + " | ".join(f"{what if i == 0 else ''}{p}" for i, p in enumerate(problems))
        + " |",
        "|---|---|" + "---|" * len(problems),
    ]
    for case in cases or [case for case in dict.fromkeys(row["case"] for row in measured) if case != "reinforce"]:
        calls = next(row["evaluations"] for row in measured if row["case"] == case)
        cells = []
        for problem in problems:
            ratios = [
                value / cost[problem, "reinforce", instance]
                for (where, name, instance), value in cost.items()
                if (where, name) == (problem, case)
            ]
            cells.append(median_and_worst(ratios) if ratios else "—")
        rows.append(f"| {RENAMED.get(case, case)} | {calls} | {' | '.join(cells)} |")
    return "\n".join(rows)
