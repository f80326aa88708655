"""README's tables, from the records in scripts/results and nothing else.

python scripts/make_tables.py            # rewrites the parts of README.md between <!-- table:NAME --> marks
python scripts/make_tables.py --check    # fails where README.md is not what the records say
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import tables_decomposition
import tables_diagnose
import tables_vae
from records import RESULTS, ROOT, read_records
from rl_statistics import Interval, iqm, mean_return_during_training, probability_of_improvement, ratio_of_means
from scipy import stats

README = ROOT / "README.md"
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


def interval(values: list[float]) -> str:
    """Mean ± half of the 95% t-interval, over seeds."""
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1) if len(values) > 1 else float("nan")
    digits = 0 if abs(np.mean(values)) >= 1000 else 1
    return f"{np.mean(values):,.{digits}f} ± {half:,.{digits}f}"


def variance_ratio(record: dict[str, Any]) -> float:
    """Geometric mean over updates of (variance with ĉ) / (without); NaN of an algorithm that measures neither."""
    if not record["variances"]:
        return float("nan")
    ratios = [with_cv / without for _, with_cv, without in record["variances"] if with_cv > 0 and without > 0]
    return float(np.exp(np.mean(np.log(ratios))))


def ratio_interval(values: list[float]) -> str:
    if np.isnan(values).all():
        return "—"
    if np.ptp(values) == 0:
        return f"{values[0]:.2f}"
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return f"{np.mean(values):.2f} ± {half:.2f}"


def grouped(folder: str) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """environment → algorithm → records, in the order of the protocol's names."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for record in read_records(RESULTS / folder):
        groups[record["env"]][record["algorithm"]].append(record)
    return groups


def learning_table(folder: str = "learning") -> str:
    rows = [
        "| environment (steps) | algorithm | seeds that reach | steps to reach it | training mean at the end "
        "| evaluation at the end | gradient variance ÷ without ĉ |",
        "|---|---|---|---|---|---|---|",
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
                f"| {ratio_interval([variance_ratio(r) for r in records])} |"
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


def tuning_table() -> str:
    """Every study of scripts/tune_rl.py: its budget as spent, and the best trial."""
    rows = [
        "| environment | algorithm | trials: complete, pruned, diverged | best: return in training | values |",
        "|---|---|---|---|---|",
    ]
    for env, studies in grouped("tuning").items():
        for name in ours_first(studies):
            (study,) = studies[name]
            states = [trial["state"] for trial in study["trials"]]
            counts = ", ".join(str(states.count(state)) for state in ("complete", "pruned", "diverged"))
            values = ", ".join(f"`{key}` {value:.3g}" for key, value in study["best"]["params"].items())
            rows.append(f"| {env} | {label(name)} | {counts} | {study['best']['value']:,.1f} | {values} |")
    return "\n".join(rows)


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
    """Episodes until the mean of 100 is at the threshold; runs that never are count all they had, and are shown."""
    rows = [
        "| environment | settings | algorithm | seeds that solve it | episodes [95%] | the paper | A2C's ÷ this row's "
        "| P(fewer than A2C) | gradient variance ÷ without ĉ |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    of_paper = grouped("table2_paper")
    for env, of_ours in table2_groups().items():
        for settings, algorithms in (("ours", of_ours), ("the paper's", of_paper.get(env, {}))):
            episodes = {name: [float(episodes_to_solve(r)) for r in records] for name, records in algorithms.items()}
            for name in ours_first(episodes):
                ratio = fewer = "—"
                if name != "a2c" and "a2c" in episodes:
                    ratio = bracketed(ratio_of_means(episodes["a2c"], episodes[name]), 2)
                    ours, theirs = ([-count for count in episodes[which]] for which in (name, "a2c"))
                    fewer = bracketed(probability_of_improvement({env: ours}, {env: theirs}), 2)
                rows.append(
                    f"| {env} | {settings} | {label(name)} | {solved_of(algorithms[name])} "
                    f"| {interval(episodes[name])} | {PAPER_EPISODES[env].get(name, '—')} | {ratio} | {fewer} "
                    f"| {ratio_interval([variance_ratio(r) for r in algorithms[name]])} |"
                )
    return "\n".join(rows)


def grid_table(grid_folder: str, results_folder: str) -> str:
    """Every setting of a grid on the tuning seeds, and which is taken: most seeds solved, fewest episodes.

    Of the environments whose grid is finished, which is those with records of what was taken.
    """
    rows = ["| environment | algorithm, setting | seeds that solve it | episodes | |", "|---|---|---|---|---|"]
    finished = grouped(results_folder)
    for env, settings in grouped(grid_folder).items():
        if env not in finished:
            continue
        scores = {
            name: (-sum(r["solved_at"] is not None for r in records), np.mean([episodes_to_solve(r) for r in records]))
            for name, records in settings.items()
        }
        taken = {
            min((name for name in scores if name.split()[0] == algorithm), key=lambda name: scores[name])
            for algorithm in {name.split()[0] for name in scores}
        }
        for name, records in settings.items():
            algorithm, setting = name.split(maxsplit=1)
            rows.append(
                f"| {env} | {label(algorithm)}, {setting} | {solved_of(records)} | {scores[name][1]:,.0f} "
                f"| {'taken' if name in taken else ''} |"
            )
    return "\n".join(rows)


def solved_of(records: list[dict[str, Any]]) -> str:
    return f"{sum(r['solved_at'] is not None for r in records)}/{len(records)}"


def episodes_to_solve(record: dict[str, Any]) -> int:
    if record["solved_at"] is None:
        return len(record["episode_steps"])
    return sum(step <= record["solved_at"] for step in record["episode_steps"])


def bracketed(interval: Interval, digits: int) -> str:
    value, low, high = (f"{number:,.{digits}f}" for number in interval)
    return f"{value} [{low}, {high}]"


def defaults_table() -> str:
    groups = grouped("defaults")
    environments = list(groups)
    names = list(dict.fromkeys(name for of_env in groups.values() for name in of_env))
    rows = [
        "| setting | " + " | ".join(environments) + " |",
        "|---|" + "---|" * len(environments),
    ]
    for name in sorted(names, key=lambda name: (name != "default", name)):
        cells = [
            ratio_interval([variance_ratio(r) for r in groups[env][name]]) if name in groups[env] else "—"
            for env in environments
        ]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def bench_table() -> str:
    record = json.loads((RESULTS / "bench.json").read_text())
    rows = [
        "| case | environment | n_steps | steps per second ÷ A2C's [95% interval] | asked | peak memory ÷ A2C's |",
        "|---|---|---|---|---|---|",
    ]
    for row in record["speed"]:
        memory = next(m for m in record["memory"] if m["case"] == row["case"])
        low, high = row["interval"]
        rows.append(
            f"| `{row['case']}` | {row['env']} | {row['n_steps']} | {row['ratio']:.2f} [{low:.2f}, {high:.2f}] "
            f"| ≥ {row['target']} | {memory['ratio']:.2f} |"
        )
    return "\n".join(rows)


def estimators_table() -> str:
    """One row per estimator: variance at equal evaluations (median of the instances) and time, REINFORCE = 1."""
    variance = json.loads((RESULTS / "estimators" / "variance.json").read_text())["rows"]
    timing = json.loads((RESULTS / "estimators" / "time.json").read_text())["rows"]
    problems = list(dict.fromkeys(row["problem"] for row in variance))
    cost = {(row["problem"], row["instance"], row["case"]): row["variance"] * row["evaluations"] for row in variance}
    seconds = {(row["problem"], row["case"]): row["ratio"] for row in timing}
    rows = [
        "| estimator | calls of f | needs ∂f | "
        + " | ".join(f"{p}: variance, time" for p in problems)
        + " | VAE's decoder: time |",
        "|---|---|---|" + "---|" * (len(problems) + 1),
    ]
    for case in dict.fromkeys(row["case"] for row in variance):
        first = next(row for row in variance if row["case"] == case)
        cells = []
        for problem in problems:
            ratios = [
                value / cost[problem, instance, "reinforce"]
                for (where, instance, name), value in cost.items()
                if (where, name) == (problem, case)
            ]
            cells.append(f"{np.median(ratios):.2g}, {seconds[problem, case]:.1f}×" if ratios else "—")
        cells.append(f"{seconds['vae', case]:.1f}×" if ("vae", case) in seconds else "—")
        rows.append(
            f"| {case} | {first['evaluations']} | {'yes' if first['needs_grad_f'] else 'no'} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(rows)


def peers_table() -> str:
    record = json.loads((RESULTS / "estimators" / "time.json").read_text())
    seconds = {(row["problem"], row["case"]): row["microseconds"] for row in record["rows"]}
    rows = [
        "| RELAX of | bias, z-score of 100,000 (toy) | variance (toy) | time ÷ ours: toy | quadratic | VAE's decoder |",
        "|---|---|---|---|---|---|",
    ]
    for peer in record["peers"]:
        name = peer["case"].replace("sb3_relax ", "")
        cells = [
            f"{seconds[problem, name] / seconds[problem, 'relax']:.1f}" if (problem, name) in seconds else "—"
            for problem in ("toy", "quadratic", "vae")
        ]
        rows.append(f"| {peer['case']} | {peer['z']:.1f} | {peer['variance']:.3g} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def toy_table() -> str:
    rows = ["| estimator | loss over its optimum, at the end | log variance, at the end |", "|---|---|---|"]
    for row in json.loads((RESULTS / "toy" / "record.json").read_text())["summary"]:
        rows.append(
            f"| {row['case']} | {row['excess_loss'] * 1e4:.2f} ± {row['excess_loss_interval'] * 1e4:.2f} "
            f"| {row['log_variance']:.1f} ± {row['log_variance_interval']:.1f} |"
        )
    return "\n".join(rows)


def rebar_table() -> str:
    """Var[REBAR] ÷ Var[REINFORCE] at the best η of each τ, per target, coupled."""
    cells = [c for c in json.loads((RESULTS / "toy" / "rebar.json").read_text())["rows"] if c["coupled"]]
    temperatures = list(dict.fromkeys(cell["temperature"] for cell in cells))
    rows = ["| t | " + " | ".join(f"τ = {tau:,g}" for tau in temperatures) + " |", "|---|" + "---|" * len(temperatures)]
    for target in dict.fromkeys(cell["target"] for cell in cells):
        of_target = {c["temperature"]: f"{c['ratio']:.3f}" for c in cells if c["target"] == target}
        rows.append(f"| {target:g} | " + " | ".join(of_target[tau] for tau in temperatures) + " |")
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


TABLES = {
    "agents": agents_table,
    "learning": learning_table,
    "statistics": statistics_table,
    "tuning": tuning_table,
    "tuned": partial(learning_table, "tuned"),
    "tuned-statistics": partial(statistics_table, "tuned"),
    "table2": table2_table,
    "grid": partial(grid_table, "table2_grid", "table2"),
    "paper-grid": partial(grid_table, "table2_paper_grid", "table2_paper"),
    "defaults": defaults_table,
    "bench": bench_table,
    "estimators": estimators_table,
    "peers": peers_table,
    "diagnose": tables_diagnose.table,
    "decomposition": tables_decomposition.table,
    "toy": toy_table,
    "rebar": rebar_table,
    "vae": tables_vae.table,
    "vae-bench": tables_vae.bench_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    before = text = README.read_text()
    for name, table in TABLES.items():
        pattern = re.compile(rf"(<!-- table:{name} -->\n).*?(<!-- /table:{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"README.md has no <!-- table:{name} --> … <!-- /table:{name} -->")
        body = table()
        text = pattern.sub(lambda match, body=body: f"{match[1]}{body}\n{match[2]}", text)
    if arguments.check:
        if text != before:
            raise SystemExit("README.md is not what the records say; run `make tables`")
        return
    README.write_text(text)


if __name__ == "__main__":
    main()
