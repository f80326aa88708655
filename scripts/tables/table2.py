"""The paper's Table 2: episodes until it is solved, with our settings and the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sb3_relax.compare.statistics import probability_of_improvement, ratio_of_means
from scripts.tables.learning import (
    VARIANCE_HEADS,
    bracketed,
    grouped,
    interval,
    label,
    n_solved,
    ours_first,
    ratio_interval,
    solved_of,
    variance_cells,
    variance_ratios,
    variances,
)

#: Grathwohl et al. 2018, Table 2: episodes to solve, A2C and LAX / RELAX
PAPER_EPISODES = {
    "CartPole-v0": {"a2c": "1,152 ± 90", "relaxa2c": "472 ± 114"},
    "InvertedPendulum-v5": {"a2c": "6,243 ± 164", "laxa2c": "2,067 ± 412"},
    "LunarLander-v3": {"a2c": "162,374 ± 17,241", "relaxa2c": "68,712 ± 20,668"},
}
#: what Table 2 compares
OF_TABLE2 = ("laxa2c", "relaxa2c", "relaxa2c-a2c-rate", "relaxa2c-exact", "a2c")


def table2_groups() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Environment → algorithm → records, with our settings."""
    groups = {**grouped("table2"), "InvertedPendulum-v5": grouped("learning")["InvertedPendulum-v5"]}
    return {env: {name: of[name] for name in OF_TABLE2 if name in of} for env, of in groups.items()}


def table2_table() -> str:
    """Episodes until the mean of 100 is at the threshold; runs that never are count all they had, and are shown.

    Where fewer than half are, the mean is a bound, and A2C's has no ratio.
    """
    rows = [
        "| environment | settings | algorithm | seeds that solve it | episodes [95%] | the paper | A2C's ÷ this row's "
        f"| P(fewer than A2C) | {VARIANCE_HEADS} |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    of_paper = grouped("table2_paper")
    for env, of_ours in table2_groups().items():
        for settings, algorithms in (("ours", of_ours), ("the paper's", of_paper.get(env, {}))):
            for name in ours_first(algorithms):
                records, of_a2c = algorithms[name], algorithms.get("a2c")
                ratio = fewer = "—"
                if name != "a2c" and of_a2c is not None:
                    if at_least_half_solved(of_a2c):
                        of_means = ratio_of_means(episodes(of_a2c), episodes(records))
                        ratio = bracketed(of_means, 2) if at_least_half_solved(records) else f"< {of_means.value:.2f}"
                    fewer = bracketed(probability_of_improvement({env: scores(records)}, {env: scores(of_a2c)}), 2)
                of_updates = [variances(r, until=r["solved_at"] or np.inf) for r in records]
                rows.append(
                    f"| {env} | {settings} | {label(name)} | {solved_of(records)} | {episodes_cell(records)} "
                    f"| {PAPER_EPISODES[env].get(name, '—')} | {ratio} | {fewer} | {variance_cells(of_updates)} |"
                )
    return "\n".join(rows)


def grid_table(grid_folder: str, results_folder: str) -> str:
    """Every setting of a grid on the tuning seeds, and which is taken: most seeds solved, then fewest episodes; where
    an algorithm solves none, highest mean return.

    Of the environments whose grid is finished, which is those with records of what was taken.
    """
    rows = [
        "| environment | algorithm, setting | seeds that solve it | episodes | mean return of all | |",
        "|---|---|---|---|---|---|",
    ]
    finished = grouped(results_folder)
    for env, settings in grouped(grid_folder).items():
        if env not in finished:
            continue
        returns = {name: np.mean([np.mean(r["episode_returns"]) for r in of]) for name, of in settings.items()}
        needed = {name: np.mean(episodes(of)) for name, of in settings.items()}
        ranks = {
            name: (-n_solved(of), needed[name] if n_solved(of) else -returns[name]) for name, of in settings.items()
        }
        taken = {
            min((name for name in ranks if name.split()[0] == algorithm), key=lambda name: ranks[name])
            for algorithm in {name.split()[0] for name in ranks}
        }
        for name, records in settings.items():
            algorithm, setting = name.split(maxsplit=1)
            rows.append(
                f"| {env} | {label(algorithm)}, {setting} | {solved_of(records)} | {needed[name]:,.0f} "
                f"| {returns[name]:,.1f} | {'taken' if name in taken else ''} |"
            )
    return "\n".join(rows)


#: mean returns of 100 episodes on InvertedPendulum (at best 1,000): an agent counts as good from the first on,
#: and as lost again below the second
GOOD, LOST = 500, 250


class AroundGood(NamedTuple):
    """Variance of a run's updates, before and after the agent first is good; NaN where it never is."""

    until: float  #: with ĉ ÷ without, of all updates until then together
    since: float  #: the same, of all since
    quartile_without: float  #: a quarter of the updates since have less, without ĉ
    quartile_with: float  #: and with ĉ


def means_of_100(record: dict[str, Any]) -> np.ndarray:
    """Of the last 100 episodes' returns, from the hundredth episode on."""
    return np.convolve(record["episode_returns"], np.full(100, 0.01), "valid")


def around_good(record: dict[str, Any]) -> AroundGood:
    good = np.flatnonzero(means_of_100(record) >= GOOD)
    first = record["episode_steps"][good[0] + 99] if len(good) else np.inf
    until, since = variances(record, until=first), variances(record, since=first)
    with_cv, without = np.quantile(since, 0.25, axis=0) if len(since) else (np.nan, np.nan)
    return AroundGood(variance_ratios(until).together, variance_ratios(since).together, float(without), float(with_cv))


def is_lost(record: dict[str, Any]) -> bool:
    """Whether an agent that was good is ever lost."""
    means = means_of_100(record)
    return bool((means[np.maximum.accumulate(means) >= GOOD] < LOST).any())


def median(values: Sequence[float]) -> str:
    """Over seeds, with the least and the most."""
    return f"{np.median(values):.2g} [{min(values):.2g}, {max(values):.2g}]"


def apart_table() -> str:
    """The paper's settings taken apart: what was changed, whether that solves it, and where ĉ adds variance."""
    rows = [
        "| algorithm, what differs from Table 2 | seeds that solve it | episodes [95%] "
        f"| seeds whose agent falls from {GOOD} to {LOST} "
        f"| gradient variance ÷ without ĉ, of all updates until the mean return is {GOOD} | since "
        "| lower quartile of an update's variance since, without ĉ: median seed [least, most] | with |",
        "|---|---|---|---|---|---|---|---|",
    ]
    taken = grouped("table2_paper")
    for env, changed in grouped("table2_paper_apart").items():
        seeds = {record["seed"] for records in changed.values() for record in records}
        as_taken = {name: [r for r in records if r["seed"] in seeds] for name, records in taken[env].items()}
        for name, records in sorted({**as_taken, **changed}.items(), key=lambda item: (item[0][:3] == "a2c", item[0])):
            algorithm, _, setting = name.partition(" ")
            runs = AroundGood(*zip(*map(around_good, records), strict=True))
            rows.append(
                f"| {label(algorithm)}, {setting or 'nothing'} | {solved_of(records)} | {episodes_cell(records)} "
                f"| {sum(is_lost(r) for r in records)}/{len(records)} "
                f"| {ratio_interval(runs.until)} | {ratio_interval(runs.since)} "
                f"| {median(runs.quartile_without)} | {median(runs.quartile_with)} |"
            )
    return "\n".join(rows)


def episodes_cell(records: list[dict[str, Any]]) -> str:
    """Mean over seeds; where fewer than half are solved that is a bound and no more, lower for an agent that hovers."""
    return interval(episodes(records)) if at_least_half_solved(records) else f"> {np.mean(episodes(records)):,.0f}"


def at_least_half_solved(records: list[dict[str, Any]]) -> bool:
    return 2 * n_solved(records) >= len(records)


def episodes(records: list[dict[str, Any]]) -> list[float]:
    """Every run's until it was solved; all it had, where it never was."""
    return [float(sum(step <= (r["solved_at"] or np.inf) for step in r["episode_steps"])) for r in records]


def scores(records: list[dict[str, Any]]) -> list[float]:
    """Fewer episodes are better. What an unsolved run would have needed is not known: last, and level with its like."""
    counts = zip(records, episodes(records), strict=True)
    return [-np.inf if record["solved_at"] is None else -count for record, count in counts]
