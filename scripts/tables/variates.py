"""Tables and figures of learning with each control variate: with the preset's values, and with searched ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_relax.control_variates.registry import OF_LATER_ACTIONS
from sb3_relax.tasks.intervals import half_width, plus_minus
from scripts.records import ROOT, file_name
from scripts.tables.ablation import by_seed, same_seed_differences
from scripts.tables.benchmark import steps_to_threshold_of, task_of
from scripts.tables.drawing import in_thousands, middle_half, one_legend, panels
from scripts.tables.learning import VARIANCE_HEADS, grouped, interval, variance_cells, variances
from scripts.tables.learning_curves import Algorithms, returns_of

#: with which every other arm is compared on the same seeds: a gain that it has as well is not due to actions
CONTROL = "state"
#: protocols whose tasks have a figure
DRAWN = ("variates", "decisions")


def protocol_of(name: str) -> dict[str, Any]:
    """A file of scripts/protocols."""
    return yaml.safe_load((ROOT / "scripts" / "protocols" / f"{name}.yml").read_text())


def arms(protocol: str = "variates") -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Task → control variate → records, of those that have any, in the order of a protocol of runs or of searches."""
    recorded, tasks = grouped(protocol), protocol_of(protocol)
    return {
        env: {
            name: recorded[env][name] for name in task.get("algorithms", task.get("methods")) if name in recorded[env]
        }
        for env, task in tasks.items()
        if env in recorded
    }


def more_than_control(algorithms: Mapping[str, list[dict[str, Any]]], name: str) -> list[float]:
    """Return during training less :data:`CONTROL`'s, of each seed that both have."""
    return same_seed_differences(algorithms[name], algorithms.get(CONTROL, []))


def all_variances(record: dict[str, Any]) -> np.ndarray:
    """With the control variate and without any part of it, ``[updates, 2]``.

    A run's variances are those of advantages that a trajectory-wise part has already corrected. What they would be
    without it is known by the share that it leaves of the mean square of Â ∂ log π in the same update. None where a
    record has a trajectory-wise part and not those shares.
    """
    first = record["hyperparams"]["control_variate"].partition("+")[0]
    if first not in OF_LATER_ACTIONS:
        return variances(record)
    left = dict(record.get("trajectory_ratios", []))
    rows = [(own, without / left[step]) for step, own, without in record["variances"] if left.get(step, 0.0) > 0]
    return np.array(rows).reshape(-1, 2)


def variates_table(protocol: str = "variates", form: str | None = None) -> str:
    """Every arm's return during training, beside that with ĉ(s) on the same seeds, steps, and variance on the way.

    :param form: of returns, as in ``format()``; by their size where it is not given
    """
    rows = [
        "| task (steps) | control variate | seeds | return during training | more than with ĉ(s), same seeds "
        f"| steps to the threshold | {VARIANCE_HEADS} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for algorithms in arms(protocol).values():
        for name, records in algorithms.items():
            gains = [] if name == CONTROL else more_than_control(algorithms, name)
            rows.append(
                f"| {task_of(records)} | `{name}` | {len(records)} "
                f"| {interval(list(by_seed(records).values()), form)} | {interval(gains, form) if gains else '—'} "
                f"| {steps_to_threshold_of(records, records[0]['threshold'])} "
                f"| {variance_cells(map(all_variances, records))} |"
            )
    return "\n".join(rows)


def differences_table(protocol: str, confidence: float) -> str:
    """What every arm has more than :data:`CONTROL`, and more than no control variate, on the same seeds.

    :param confidence: of the intervals
    """
    rows = [
        f"| task (steps) | control variate | seeds | more than with ĉ(s), {confidence:.1%} interval "
        "| more than with `none` |",
        "|---|---|---|---|---|",
    ]
    for env, algorithms in arms(protocol).items():
        for name, records in algorithms.items():
            cells = []
            for other in (CONTROL, "none"):
                gains = same_seed_differences(records, algorithms.get(other, [])) if name != other else []
                cells.append(plus_minus(float(np.mean(gains)), half_width(gains, confidence), ",.2f") if gains else "—")
            steps = records[0]["hyperparams"]["n_timesteps"]
            rows.append(f"| {env} ({steps:,.0f}) | `{name}` | {len(records)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def points_table(protocol: str = "tuning_variates") -> str:
    """The settings among which each arm of each task chooses."""
    tasks = protocol_of(protocol)
    arguments = list(next(iter(tasks.values()))["points"][0])
    rows = [
        "| task | point | " + " | ".join(f"`{name}`" for name in arguments) + " |",
        "|---" * (len(arguments) + 2) + "|",
    ]
    of_points: dict[str, list[str]] = {}
    for env, task in tasks.items():
        for number, point in enumerate(task["points"], 1):
            values = (point[name] for name in arguments)
            cells = " | ".join(format(value, "," if isinstance(value, int) else ".2g") for value in values)
            of_points.setdefault(f"{number} | {cells}", []).append(env)
    for cells, envs in of_points.items():
        rows.append(f"| {', '.join(envs) if len(envs) < 3 else 'the others'} | {cells} |")
    return "\n".join(rows)


def searches_table(protocol: str = "tuning_variates", form: str | None = None) -> str:
    """Every arm's return during training at each point, over the tuning seeds; the highest, which it takes, is bold.

    What is more than with :data:`CONTROL` is over all points and seeds, each beside the same one.

    :param form: of returns, as in ``format()``; by the size of a task's where it is not given
    """
    n_points = max(len(task["points"]) for task in protocol_of(protocol).values())
    heads = ["task", "control variate", *(f"point {number}" for number in range(1, n_points + 1))]
    rows = [f"| {' | '.join(heads)} | more than with ĉ(s), same points and seeds |", "|---" * (n_points + 3) + "|"]
    for env, studies in arms(protocol).items():
        values = {name: by_point(study) for name, (study,) in studies.items()}
        size = max(np.nanmax(np.abs(each)) for each in values.values())
        of_task = form or (",.2f" if size < 100 else ",.1f")
        for name, of_points in values.items():
            means = of_points.mean(axis=1)
            cells = ["diverged" if np.isnan(mean) else format(mean, of_task) for mean in means]
            best = np.nanargmax(means)
            cells[best] = f"**{cells[best]}**"
            more = "—"
            if name != CONTROL and CONTROL in values:
                differences = (of_points - values[CONTROL]).flatten()
                differences = differences[~np.isnan(differences)]
                more = plus_minus(float(differences.mean()), half_width(differences), of_task)
            rows.append(f"| {env} | `{name}` | {' | '.join(cells)} | {more} |")
    return "\n".join(rows)


def by_point(study: Mapping[str, Any]) -> np.ndarray:
    """What a search found, ``[points, seeds]``; NaN for the seed with which a point diverged, and those after it.

    Points are never pruned, so nothing else is missing.
    """
    values = np.full((len(study["trials"]), len(study["seeds"])), np.nan)
    for row, trial in zip(values, study["trials"], strict=True):
        row[: len(trial["values"])] = trial["values"]
    return values


def figure_links(protocol: str = "variates") -> str:
    """A line for every figure of a protocol's tasks."""
    return "\n\n".join(
        f"![{env}: return by steps with each control variate, and how much more it is during training than with ĉ(s)]"
        f"(../assets/figures/{figure_name(env)}.png)"
        for env in arms(protocol)
    )


def figure_name(env: str) -> str:
    """Of a task's figure."""
    return file_name(f"variates_{env}")


def variates_figures() -> dict[str, Figure]:
    """Name → figure, of every task of :data:`DRAWN` that has records."""
    return {figure_name(env): draw(env, algorithms) for name in DRAWN for env, algorithms in arms(name).items()}


def draw(env: str, algorithms: Algorithms) -> Figure:
    """Return against steps (interquartile mean and middle half of the seeds), and differences to ĉ(s) by seed."""
    figure, (curves, differences) = panels(2, height=4.2)
    for place, (name, records) in enumerate(algorithms.items()):
        middle_half(curves, *returns_of(records), label=name, color=f"C{place}")
        if name != CONTROL:
            difference(differences, place, more_than_control(algorithms, name))
    curves.set_title(env, loc="left")
    curves.set(xlabel="steps", ylabel="return")
    in_thousands(curves)
    differences.axvline(0, color="0.7", linewidth=1)
    differences.set(xlabel="return during training, more than with ĉ(s)", yticks=[])
    differences.invert_yaxis()
    one_legend(figure, curves, columns=4)
    return figure


def difference(axis: Axes, place: int, values: list[float]) -> None:
    """Mean and 95% t-interval, in the colour of the arm's curve; a mean alone of one seed, nothing of none."""
    if values:
        axis.errorbar(np.mean(values), place, xerr=half_width(values), fmt="o", color=f"C{place}", capsize=3)
