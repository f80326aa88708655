"""Tables of the benchmark: one default setting of ours on every task against what users of SB3 run today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from sb3_relax.compare.statistics import mean_return_during_training, probability_of_improvement
from scripts.records import RESULTS, read_record
from scripts.tables.learning import bracketed, grouped, interval, label

#: a protocol's names → what tables call them, in their order
NAMES = {"fast": label("fast"), "a2c": "SB3's A2C", "ppo": "SB3's PPO", "trpo": "sb3-contrib's TRPO"}
#: episodes whose mean has to be at the threshold: with 100 of them CartPole takes at least 47,500 steps
WINDOW = 10
#: tasks on whose threshold ten episodes of an agent that has learned nothing come by chance
BY_CHANCE = {"MinAtar/Asterix-v1"}
#: whose values an agent has → folder of the records
VALUES = {"of the table above": "benchmark", "found": "tuned_fast"}


def steps_to(record: Mapping[str, Any], threshold: float, window: int = WINDOW) -> int | None:
    """The first step at which the mean return of the last episodes was at a threshold; ``None`` if it never was."""
    returns = np.asarray(record["episode_returns"])
    if len(returns) < window:
        return None
    sums = np.cumsum(np.concatenate([[0.0], returns]))
    reached = np.flatnonzero((sums[window:] - sums[:-window]) / window >= threshold)
    return record["episode_steps"][reached[0] + window - 1] if len(reached) else None


def steps_of(records: Sequence[Mapping[str, Any]], threshold: float) -> str:
    """Mean over seeds; a run that never gets there counts with its whole budget, and is shown."""
    if records[0].get("env") in BY_CHANCE:
        return "by chance"
    reached = sum(steps_to(record, threshold) is not None for record in records)
    return f"{interval(steps_spent(records, threshold))} ({reached}/{len(records)})"


def steps_to_threshold_of(records: Sequence[Mapping[str, Any]], threshold: float) -> str:
    """:func:`steps_of`, with the threshold said."""
    if records[0].get("env") in BY_CHANCE:
        return f"{threshold:g} comes by chance"
    return f"{steps_of(records, threshold)} to {threshold:g}"


def steps_spent(records: Sequence[Mapping[str, Any]], threshold: float) -> list[float]:
    """Of each run until the threshold; the whole budget of one that never gets there."""
    return [float(steps_to(record, threshold) or record["timesteps"]) for record in records]


def seconds_spent(records: Sequence[Mapping[str, Any]], threshold: float) -> list[float]:
    """The same in seconds, at the pace that scripts.bench.pace measured; none where it was not."""
    path = RESULTS / "benchmark_pace.json"
    measured = read_record(path)["seconds_per_step"] if path.exists() else {}
    paces = measured.get(records[0]["env"], {}).get(records[0]["algorithm"])
    return [] if paces is None else [steps * float(np.median(paces)) for steps in steps_spent(records, threshold)]


def seconds_of(records: Sequence[Mapping[str, Any]], threshold: float) -> str:
    """Mean over seeds."""
    seconds = seconds_spent(records, threshold)
    return interval(seconds) if seconds else "—"


def returns_during_training(records: Sequence[Mapping[str, Any]]) -> list[float]:
    """Of each run."""
    return [mean_return_during_training(record) for record in records]


def returns_at_end(records: Sequence[Mapping[str, Any]]) -> list[float]:
    """Of each run, over its last hundred training episodes."""
    return [record["final_training_mean"] for record in records]


def task_of(records: Sequence[Mapping[str, Any]]) -> str:
    """Environment, and steps that were asked for."""
    return f"{records[0]['env']} ({records[0]['hyperparams']['n_timesteps']:,.0f})"


def higher_than(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> str:
    """P(a run of ours has the higher return during training), of several runs each."""
    if min(len(ours), len(theirs)) < 2:
        return "—"
    during = [{"": returns_during_training(records)} for records in (ours, theirs)]
    return bracketed(probability_of_improvement(*during), 2)


def benchmark_table(folder: str = "benchmark") -> str:
    """Every task's algorithms: return during training, at the end, and steps and seconds to the threshold."""
    rows = [
        "| task (steps) | algorithm | seeds | return during training | last 100 episodes | steps to the threshold "
        "| seconds to it | P(ours has the higher return during training) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for algorithms in grouped(folder).values():
        for name in sorted(algorithms, key=list(NAMES).index):
            records = algorithms[name]
            during = interval(returns_during_training(records))
            final = interval(returns_at_end(records))
            threshold = records[0]["threshold"]
            better = "—" if name == "fast" or "fast" not in algorithms else higher_than(algorithms["fast"], records)
            rows.append(
                f"| {task_of(records)} | {NAMES[name]} | {len(records)} "
                f"| {during} | {final} | {steps_to_threshold_of(records, threshold)} "
                f"| {seconds_of(records, threshold)} | {better} |"
            )
    return "\n".join(rows)


def against_a2c_table(folder: str = "benchmark") -> str:
    """Steps to the score that SB3's A2C ends with: its own, and ours."""
    rows = [
        "| task | A2C's score at the end | A2C's steps to it | ours | share |",
        "|---|---|---|---|---|",
    ]
    for env, algorithms in grouped(folder).items():
        if not {"fast", "a2c"} <= algorithms.keys():
            continue
        score = float(np.mean(returns_at_end(algorithms["a2c"])))
        theirs, ours = (steps_spent(algorithms[name], score) for name in ("a2c", "fast"))
        rows.append(f"| {env} | {score:,.1f} | {np.mean(theirs):,.0f} | {np.mean(ours):,.0f} | {share(ours, theirs)} |")
    return "\n".join(rows)


def share(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Of their mean that ours is."""
    return f"{np.mean(ours) / np.mean(theirs):.2f}" if len(ours) and len(theirs) else "—"


def against_ppo_table(folder: str = "benchmark") -> str:
    """Return during training, and steps and seconds to the threshold, as shares of those of SB3's PPO."""
    rows = [
        "| task | P(ours has the higher return during training) | share of PPO's steps | share of PPO's seconds |",
        "|---|---|---|---|",
    ]
    for env, algorithms in grouped(folder).items():
        if not {"fast", "ppo"} <= algorithms.keys():
            continue
        ours, theirs = algorithms["fast"], algorithms["ppo"]
        steps, seconds = (
            share(spent(ours, ours[0]["threshold"]), spent(theirs, ours[0]["threshold"]))
            if env not in BY_CHANCE
            else "—"
            for spent in (steps_spent, seconds_spent)
        )
        rows.append(f"| {env} | {higher_than(ours, theirs)} | {steps} | {seconds} |")
    return "\n".join(rows)


def tuned_table() -> str:
    """Ours and PPO with the benchmark's values and with those of a search, on the search's seeds for reporting."""
    rows = [
        "| task (steps) | algorithm | values | seeds | return during training | ÷ ours, found | last 100 episodes "
        "| steps to the threshold | P(ours, found, has the higher return during training) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups = {values: grouped(folder) for values, folder in VALUES.items()}
    for env, found in groups["found"].items():
        best = found["fast"]
        seeds = {record["seed"] for record in best}
        for name, values in product(found, VALUES):
            records = [record for record in groups[values][env][name] if record["seed"] in seeds]
            if not records:
                continue
            during = returns_during_training(records)
            better = "—" if (name, values) == ("fast", "found") else higher_than(best, records)
            rows.append(
                f"| {task_of(records)} | {NAMES[name]} | {values} | {len(records)} "
                f"| {interval(during)} | {share(during, returns_during_training(best))} "
                f"| {interval(returns_at_end(records))} "
                f"| {steps_to_threshold_of(records, records[0]['threshold'])} | {better} |"
            )
    return "\n".join(rows)
