"""README's tables, from the records in scripts/results and nothing else.

python scripts/make_tables.py            # rewrites the parts of README.md between <!-- table:NAME --> marks
python scripts/make_tables.py --check    # fails where README.md is not what the records say
"""

from __future__ import annotations

import argparse
import json
import re
from functools import partial

import numpy as np
import table_summary
import tables_decomposition
import tables_diagnose
import tables_rl
import tables_table2
import tables_vae
from records import RESULTS, ROOT

README = ROOT / "README.md"


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


TABLES = {
    "summary": table_summary.summary_table,
    "agents": tables_rl.agents_table,
    "learning": tables_rl.learning_table,
    "statistics": tables_rl.statistics_table,
    "tuning": tables_rl.tuning_table,
    "tuned": partial(tables_rl.learning_table, "tuned"),
    "tuned-statistics": partial(tables_rl.statistics_table, "tuned"),
    "table2": tables_table2.table2_table,
    "grid": partial(tables_table2.grid_table, "table2_grid", "table2"),
    "paper-grid": partial(tables_table2.grid_table, "table2_paper_grid", "table2_paper"),
    "apart": tables_table2.apart_table,
    "defaults": tables_rl.defaults_table,
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
        print("README.md is what the records say")
        return
    README.write_text(text)


if __name__ == "__main__":
    main()
