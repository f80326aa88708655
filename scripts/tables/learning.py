"""Tables of the learning runs, of what was searched for them, and what those of Table 2 share."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sb3_relax.compare.statistics import Interval, iqm, mean_return_during_training, probability_of_improvement
from sb3_relax.tasks.intervals import half_width, plus_minus
from scripts.records import RESULTS, ROOT, Records

CLASS_NAMES = {
    "a2c": "A2C (ĉ = 0)",
    "relaxa2c": "RELAXA2C",
    "laxa2c": "LAXA2C",
    "relaxa2c-lstm": "RecurrentRELAXA2C",
    "laxa2c-lstm": "RecurrentLAXA2C",
    "a2c-state-baseline": "A2C with ĉ(s)",
    "a2c-same-rate": "A2C (ĉ = 0), RELAXA2C's rate",
    "relaxa2c-a2c-rate": "RELAXA2C, A2C's rate",
    "ppo": "PPO",
    "trpo": "TRPO",
    "fast": 'ours, `preset="fast"`',
}
#: the algorithms as they are, without a changed argument
OURS = ("laxa2c", "relaxa2c", "laxa2c-lstm", "relaxa2c-lstm")


def label(name: str) -> str:
    """A protocol's name of an algorithm, as tables and figures show it."""
    return CLASS_NAMES.get(name, name.replace("relaxa2c-", "RELAXA2C, "))


def ours_first(names: Iterable[str]) -> list[str]:
    """In the order of the rows: ours, what it is compared with, and what else a user might pick."""
    last = ("a2c-state-baseline", "a2c", "a2c-same-rate", "ppo", "trpo")
    return sorted(names, key=lambda name: (last.index(name) + 1 if name in last else 0, name))


def interval(values: list[float], form: str | None = None) -> str:
    """Mean ± half of the 95% t-interval, over seeds.

    :param form: of both numbers, as in ``format()``; by the mean's size where it is not given
    """
    mean = float(np.mean(values))
    return plus_minus(mean, half_width(values), form or (",.0f" if abs(mean) >= 1000 else ",.1f"))


#: heads of two columns: variance_ratios()
VARIANCE_HEADS = "gradient variance ÷ without ĉ, update by update | of all updates together"


class VarianceRatios(NamedTuple):
    """(Variance with ĉ) ÷ (without), of one step at the distribution's parameters; NaN where neither is measured."""

    by_update: float  #: geometric mean over updates: each counts the same, however little varies in it
    together: float  #: of the sums over updates: those count in which much varies


def variances(record: dict[str, Any], since: float = 0, until: float = np.inf) -> np.ndarray:
    """With ĉ and without, ``[updates, 2]``, of a run's updates after ``since`` steps and up to ``until``."""
    return np.array([pair for step, *pair in record["variances"] if since < step <= until]).reshape(-1, 2)


def variance_ratios(pairs: np.ndarray) -> VarianceRatios:
    """Of :func:`variances`."""
    if len(pairs) == 0:
        return VarianceRatios(float("nan"), float("nan"))
    logs = np.log(pairs[(pairs > 0).all(axis=1)])
    with_cv, without = pairs.sum(axis=0)
    return VarianceRatios(float(np.exp((logs[:, 0] - logs[:, 1]).mean())), float(with_cv / without))


def variance_cells(of_runs: Iterable[np.ndarray]) -> str:
    """Both ratios of every run's :func:`variances`, over seeds, as two cells."""
    return " | ".join(ratio_interval(values) for values in zip(*map(variance_ratios, of_runs), strict=True))


def ratio_interval(values: Sequence[float]) -> str:
    """Mean ± half of the 95% t-interval, over seeds."""
    if np.isnan(values).all():
        return "—"
    if len(values) > 1 and np.ptp(values) == 0:
        return f"{values[0]:.2f}"
    return plus_minus(float(np.mean(values)), half_width(values), ".2f")


def grouped(folder: str) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """environment → algorithm → records, in the order of the protocol's names."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for record in Records(RESULTS / folder).read():
        groups[record["env"]][record["algorithm"]].append(record)
    return groups


def n_solved(records: list[dict[str, Any]]) -> int:
    return sum(record["solved_at"] is not None for record in records)


def solved_of(records: list[dict[str, Any]]) -> str:
    return f"{n_solved(records)}/{len(records)}"


def bracketed(interval: Interval, digits: int) -> str:
    value, low, high = (f"{number:,.{digits}f}" for number in interval)
    return f"{value} [{low}, {high}]"


def learning_table(folder: str = "learning") -> str:
    rows = [
        "| environment (steps) | algorithm | seeds that reach | steps to reach it | training mean at the end "
        f"| evaluation at the end | {VARIANCE_HEADS} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for env, algorithms in grouped(folder).items():
        for name in ours_first(algorithms):
            records = algorithms[name]
            # a run that never reaches it counts with its whole budget, and is shown
            steps = [float(r["solved_at"] or r["timesteps"]) for r in records]
            budget, threshold = records[0]["timesteps"], records[0]["threshold"]
            rows.append(
                f"| {env} ({budget:,}) | {label(name)} | {solved_of(records)} reach {threshold:g} "
                f"| {interval(steps)} | {interval([r['final_training_mean'] for r in records])} "
                f"| {interval([float(np.mean(r['evaluation'])) for r in records])} "
                f"| {variance_cells(map(variances, records))} |"
            )
    return "\n".join(rows)


def statistics_table(folder: str = "learning") -> str:
    """Every algorithm against A2C on the same environment, and ours over all of them."""
    rows = [
        "| environment | algorithm | runs | interquartile mean of the evaluation "
        "| P(higher return during training than A2C) | than A2C with ĉ(s) |",
        "|---|---|---|---|---|---|",
    ]
    ours, theirs = {}, {}
    groups = grouped(folder)
    for env, algorithms in groups.items():
        during = {name: [mean_return_during_training(r) for r in rs] for name, rs in algorithms.items()}
        for name in ours_first(algorithms):
            score = iqm([float(np.mean(r["evaluation"])) for r in algorithms[name]])
            better = than_state = "—"
            if name in OURS and "a2c-state-baseline" in during:
                state = during["a2c-state-baseline"]
                than_state = bracketed(probability_of_improvement({env: during[name]}, {env: state}), 2)
            if name != "a2c":
                better = bracketed(probability_of_improvement({env: during[name]}, {env: during["a2c"]}), 2)
                if name in OURS:
                    ours[env], theirs[env] = during[name], during["a2c"]
            cells = (env, label(name), str(len(algorithms[name])), bracketed(score, 1), better, than_state)
            rows.append("| " + " | ".join(cells) + " |")
    if len(groups) > 1:
        overall = bracketed(probability_of_improvement(ours, theirs), 2)
        who = ", ".join(label(name) for name in OURS if any(name in of_env for of_env in groups.values()))
        rows.append(f"| all | {who} | {sum(map(len, ours.values()))} | — | {overall} | — |")
    return "\n".join(rows)


def tuning_table(folder: str = "tuning") -> str:
    """Every study of scripts/run/tune.py: its budget as spent, and the best trial."""
    rows = [
        "| environment | algorithm | trials: complete, pruned, diverged | best: return in training | values |",
        "|---|---|---|---|---|",
    ]
    for env, studies in grouped(folder).items():
        for name in ours_first(studies):
            (study,) = studies[name]
            states = [trial["state"] for trial in study["trials"]]
            counts = ", ".join(str(states.count(state)) for state in ("complete", "pruned", "diverged"))
            found = study["best"]["params"].items()
            values = ", ".join(f"`{key}` {value if isinstance(value, str) else f'{value:.3g}'}" for key, value in found)
            rows.append(f"| {env} | {label(name)} | {counts} | {study['best']['value']:,.1f} | {values} |")
    return "\n".join(rows)


def defaults_table() -> str:
    groups = grouped("defaults")
    environments = list(groups)
    names = list(dict.fromkeys(name for of_env in groups.values() for name in of_env))
    rows = [
        "| setting | " + " | ".join(f"{env}, update by update | together" for env in environments) + " |",
        "|---|" + "---|---|" * len(environments),
    ]
    for name in sorted(names, key=lambda name: (name != "default", name)):
        cells = [
            variance_cells(map(variances, groups[env][name])) if name in groups[env] else "— | —"
            for env in environments
        ]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def agents_table() -> str:
    """The trained agents in agents/."""
    rows = [
        "| environment | algorithm | steps | return, 100 episodes (mean ± standard deviation) |",
        "|---|---|---|---|",
    ]
    for path in sorted((ROOT / "agents").glob("*/*/score.json"), key=lambda path: path.parent.name):
        record = json.loads(path.read_text())
        score = record["score"]
        rows.append(
            f"| {record['env']} | {CLASS_NAMES[record['algorithm']]} | {record['timesteps']:,} "
            f"| {score['mean']:,.1f} ± {score['std']:,.1f} |"
        )
    return "\n".join(rows)
