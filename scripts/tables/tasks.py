"""Tables of the tasks that are compared by calls of f, each from its folder in scripts/results."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from sb3_relax.tasks.attention.problem import Attention
from sb3_relax.tasks.comparison import area, grouped, mean_and_half, summarise
from sb3_relax.tasks.gates.problem import FeatureGates
from sb3_relax.tasks.intervals import plus_minus
from sb3_relax.tasks.memory.problem import Memory
from sb3_relax.tasks.problem import Problem
from sb3_relax.tasks.records import read_record
from sb3_relax.tasks.renderer.problem import Renderer
from sb3_relax.tasks.solids.problem import Solids
from scripts.records import RESULTS

PROBLEMS: dict[str, type[Problem]] = {
    "attention": Attention,
    "memory": Memory,
    "gates": FeatureGates,
    "renderer": Renderer,
    "solids": Solids,
}
Runs = list[dict[str, Any]]


def runs_of(task: str, part: str = "") -> Runs:
    """The runs that are reported, or those of a part, such as ``"tuning"``."""
    runs: Runs = read_record(RESULTS / task / part / "record.json")["runs"]
    return runs


def task_table(task: str, part: str = "") -> str:
    """What the command prints: area, measures on the test split, variance over NVIL's."""
    summary = summarise(runs_of(task, part), PROBLEMS[task])
    titles = [title.replace("_", " ") for title in next(iter(summary.values()))]
    rows = [f"| estimator | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    for name, row in summary.items():
        rows.append(f"| {name} | {' | '.join(plus_minus(*value, '.3f') for value in row.values())} |")
    return "\n".join(rows)


def paired_table(task: str, part: str = "") -> str:
    """RELAX less the others of the same settings but the learning rates, paired by seed.

    The area, where RELAX is farthest below on the way, and how often it is ahead.
    """
    problem = PROBLEMS[task]
    measure, groups = problem.measures[0], grouped(runs_of(task, part), problem)
    rows = [f"| difference | {measure}, area | least on the way, at calls of f | points ahead |", "|---|---|---|---|"]
    for own_name, own in groups.items():
        for name, others in groups.items():
            if own[0]["estimator"] != "relax" or others[0]["estimator"] in ("relax", "exact"):
                continue
            if not alike(own, others, problem):
                continue
            difference = mean_and_half([area(a, measure) - area(b, measure) for a, b in zip(own, others, strict=True)])
            curves = [np.array([run["curve"][measure] for run in runs]).mean(0) for runs in (own, others)]
            ahead = (curves[0] - curves[1])[1:]  # all start alike
            least = int(ahead.argmin())
            calls = int(own[0]["curve"]["calls"][1:][least])
            rows.append(
                f"| {own_name} less {name} | {plus_minus(*difference, '.3f')} | {ahead[least]:+.3f} at {calls:,} | "
                f"{int((ahead > 0).sum())} of {len(ahead)} |"
            )
    return "\n".join(rows)


def alike(own: Runs, others: Runs, problem: type[Problem]) -> bool:
    """Whether two groups have the same seeds, and the same settings but for the estimator and the learning rates."""
    own_choice = {"estimator", "learning_rate", "phi_learning_rate", "seed"}
    settings = {field.name for field in fields(problem.config)} - own_choice
    same = all(own[0][name] == others[0][name] for name in settings)
    return same and [run["seed"] for run in own] == [run["seed"] for run in others]


def rates_table(task: str) -> str:
    """The mean area over the tuning seeds, by learning rate; the best one is bold."""
    problem, runs = PROBLEMS[task], runs_of(task, "tuning")
    rates = sorted({run["learning_rate"] for run in runs})
    rows = ["| estimator | " + " | ".join(f"{rate:g}" for rate in rates) + " |", "|---|" + "---|" * len(rates)]
    for name, areas in areas_by_rate(runs, problem).items():
        best = max(areas.values())
        cells = [f"{areas[rate]:.3f}" if rate in areas else "—" for rate in rates]
        cells = [f"**{cell}**" if areas.get(rate) == best else cell for rate, cell in zip(rates, cells, strict=True)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def areas_by_rate(runs: Runs, problem: type[Problem]) -> dict[str, dict[float, float]]:
    """Estimator, and what else tells runs apart → learning rate → mean area over the seeds."""
    found: dict[str, dict[float, float]] = {}
    alike_but_for_rates = [{**run, "learning_rate": None, "rate": run["learning_rate"]} for run in runs]
    groups = grouped(alike_but_for_rates, problem)
    order = list(problem.cases)
    for name in sorted(groups, key=lambda name: (order.index(groups[name][0]["estimator"]), name)):
        group = groups[name]
        for rate in sorted({run["rate"] for run in group}):
            areas = [area(run, problem.measures[0]) for run in group if run["rate"] == rate]
            found.setdefault(name, {})[rate] = float(np.mean(areas))
    return found
