"""Tables of the benchmarks: the algorithms' speed and memory, the estimators' variance and time, the peers."""

from __future__ import annotations

import json

import numpy as np

from scripts.bench.growth import steepest_power
from scripts.records import RESULTS


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


def floor_table() -> str:
    """One row per case: the floor and its parts, in milliseconds, and what iterations cost beside it."""
    rows = [
        "| case | n_steps | environments | acting | forward and backward | optimizer | the floor | A2C ÷ the floor "
        "| ours ÷ the floor | ours ÷ A2C |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in json.loads((RESULTS / "floor.json").read_text())["rows"]:
        times = [row["microseconds"][part] for part in ("environments", "acting", "backward", "optimizer")]
        cells = [f"{microseconds / 1000:.2f} ms" for microseconds in (*times, row["floor"])]
        ratios = [row["over_floor"]["a2c"], row["over_floor"]["ours"], row["ours_over_a2c"]]
        rows.append(
            f"| `{row['case']}` | {row['n_steps']} | {' | '.join(cells)} | "
            + " | ".join(f"{ratio:.2f}" for ratio in ratios)
            + " |"
        )
    return "\n".join(rows)


def pairs_table() -> str:
    """One row per pair of agents that the record has."""
    rows = ["| iteration of | ms | the other's | ratio | asked |", "|---|---|---|---|---|"]
    for name, row in json.loads((RESULTS / "pairs.json").read_text())["rows"].items():
        ours, other = row["milliseconds"]
        rows.append(f"| {name} | {ours:.1f} | {other:.1f} | {row['ratio']:.2f} | ≤ {row['at_most']:.2f} |")
    return "\n".join(rows)


def growth_table() -> str:
    """One row per thing that grows; times and memory at its smallest and largest size."""
    rows = [
        "| what grows | from, to | ms per iteration | peak MB | steepest power of time | of memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, of_size in json.loads((RESULTS / "growth.json").read_text())["rows"].items():
        sizes = [*map(int, of_size)]
        times, peaks = ([row[quantity] for row in of_size.values()] for quantity in ("milliseconds", "mb"))
        columns = ((sizes, ","), (times, ".1f"), (peaks, ".0f"))
        ends = [f"{values[0]:{form}}, {values[-1]:{form}}" for values, form in columns]
        powers = [f"{steepest_power(sizes, values):.2f}" for values in (times, peaks)]
        rows.append(f"| {name} | {' | '.join([*ends, *powers])} |")
    return "\n".join(rows)


def vae_floor_table() -> str:
    """One row per estimator: the floor, what iterations take beside it, and what seeds together could gain."""
    record = json.loads((RESULTS / "vae" / "floor.json").read_text())
    rows = [
        "| estimator | MFLOP | matrix products | Adam | plain ÷ the floor | compiled ÷ the floor "
        f"| floor of {record['seeds']} seeds ÷ that of one | ÷ a compiled iteration of one |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        spent, over, seeds = row["milliseconds"], row["over_floor"], row["all_seeds_over_one"]
        ratios = [over["plain"], over["compiled"], seeds["floor"], seeds["floor_over_compiled"]]
        rows.append(
            f"| {row['estimator']} | {row['megaflop']:.0f} | {spent['products']:.2f} ms | {spent['Adam']:.2f} ms | "
            + " | ".join(f"{ratio:.2f}" for ratio in ratios)
            + " |"
        )
    return "\n".join(rows)


def median_and_worst(ratios: list[float]) -> str:
    """Such as "0.32 (0.55)": a median alone would hide that an estimator failed on one of three instances."""
    return f"{np.median(ratios):.2g} ({max(ratios):.2g})"


def estimators_table() -> str:
    """One row per estimator: variance at equal calls of f, median (worst) of the instances, and time, REINFORCE = 1."""
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
            cells.append(f"{median_and_worst(ratios)}, {seconds[problem, case]:.1f}×" if ratios else "—")
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
