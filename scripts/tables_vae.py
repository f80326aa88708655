"""Table 1 and the speed of the VAE, from the records in scripts/results/vae."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from records import RESULTS, read_records
from scipy import stats

from sb3_relax.tasks.vae.cases import CASES
from sb3_relax.tasks.vae.data import DATASETS
from sb3_relax.tasks.vae.model import MODELS

VAE = RESULTS / "vae"
MODEL_LABELS = {"linear1": "linear, one layer", "linear2": "linear, two layers", "nonlinear": "nonlinear"}
LABELS = {
    "concrete": "Concrete",
    "concrete_bits": "Concrete, decoder on bits",
    "nvil": "NVIL",
    "muprop": "MuProp",
    "rebar": "REBAR without C_ψ",
    "rebar_baseline": "REBAR",
    "relax": "RELAX",
    "relax_free": "RELAX, c a network alone",
    "reinforce": "REINFORCE, running baseline",
    "rloo": "RLOO, K = 2",
    "disarm": "DisARM",
    "double_cv": "Double CV, K = 2",
    "rodeo": "RODEO, K = 2",
    "relaxed_double_cv": "relaxed Double CV, K = 2",
    "vimco": "VIMCO, K = 2",
}
Column = tuple[str, str]
#: with the input-dependent baseline that NVIL and MuProp have too, as in Tucker et al. 2017
REBAR = "rebar_baseline"

#: Grathwohl et al. 2018, Table 1: highest training ELBO within 2,000,000 iterations
PAPER_TRAIN: dict[Column, dict[str, float]] = {
    column: dict(zip(("concrete", "nvil", "muprop", REBAR, "relax"), values, strict=True))
    for column, values in {
        ("mnist", "nonlinear"): (-102.2, -101.5, -101.1, -81.01, -78.13),
        ("mnist", "linear1"): (-111.3, -112.5, -111.7, -111.6, -111.20),
        ("mnist", "linear2"): (-99.62, -99.6, -99.07, -98.22, -98.00),
        ("omniglot", "nonlinear"): (-110.4, -109.58, -108.72, -56.76, -56.12),
        ("omniglot", "linear1"): (-117.23, -117.44, -117.09, -116.63, -116.57),
        ("omniglot", "linear2"): (-109.95, -109.98, -109.55, -108.71, -108.54),
    }.items()
}
#: its appendix: highest validation ELBO
PAPER_VALIDATION: dict[Column, dict[str, float]] = {
    ("mnist", "linear1"): {REBAR: -114.32, "relax": -113.62},
    ("mnist", "linear2"): {REBAR: -101.20, "relax": -100.85},
    ("mnist", "nonlinear"): {REBAR: -111.12, "relax": -119.19},
    ("omniglot", "linear1"): {REBAR: -122.44, "relax": -122.11},
    ("omniglot", "linear2"): {REBAR: -115.83, "relax": -115.42},
    ("omniglot", "nonlinear"): {REBAR: -127.51, "relax": -128.20},
}
#: its appendix: epochs to REBAR's best validation score
PAPER_EPOCHS: dict[Column, dict[str, float]] = {
    ("mnist", "linear1"): {REBAR: 857, "relax": 531},
    ("mnist", "linear2"): {REBAR: 900, "relax": 620},
    ("omniglot", "linear1"): {REBAR: 2086, "relax": 566},
    ("omniglot", "linear2"): {REBAR: 1027, "relax": 673},
}


def finished(folder: Path = VAE) -> dict[Column, dict[str, list[dict[str, Any]]]]:
    """(data set, model) → estimator → records of whole runs at the learning rate that was chosen."""
    rates_path = folder / "rates.json"
    rates = json.loads(rates_path.read_text()) if rates_path.exists() else {}
    groups: dict[Column, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for record in read_records(folder / "runs"):
        entry = rates.get(f"{record['dataset']} {record['model']} {record['estimator']}")
        if entry and record["learning_rate"] == entry["rate"] and "iwae_100" in record:
            groups[record["dataset"], record["model"]][record["estimator"]].append(record)
    order = [(dataset, model) for dataset in DATASETS for model in MODELS]
    return {
        column: {name: groups[column][name] for name in CASES if groups[column][name]}
        for column in order
        if groups[column]
    }


def curve(record: dict[str, Any], key: str, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Iterations up to the budget, and a quantity there."""
    where, what = (record["curve_keys"].index(k) for k in ("iteration", key))
    points = [(point[where], point[what]) for point in record["curve"] if point[where] <= budget]
    return np.array([p[0] for p in points]), np.array([p[1] for p in points])


def mean_and_interval(values: list[float], digits: int) -> str:
    """Mean, with ± half of the 95% t-interval where there are several seeds."""
    text = f"{np.mean(values):,.{digits}f}"
    if len(values) > 1:
        text += f" ± {stats.sem(values) * stats.t.ppf(0.975, len(values) - 1):,.{digits}f}"
    return text


def best(records: list[dict[str, Any]], key: str, budget: int) -> str:
    """Highest ELBO of each seed within the budget."""
    return mean_and_interval([float(curve(record, key, budget)[1].max()) for record in records], 2)


def iterations_to(records: list[dict[str, Any]], rebar: list[dict[str, Any]], budget: int) -> str:
    """Iterations until the validation ELBO is at the best of REBAR's run of the same seed, over runs that got there."""
    targets = {record["seed"]: curve(record, "validation_elbo", budget)[1].max() for record in rebar}
    reached, tried = [], 0
    for record in records:
        if record["seed"] in targets:
            tried += 1
            iterations, elbos = curve(record, "validation_elbo", budget)
            there = iterations[elbos >= targets[record["seed"]]]
            if len(there):
                reached.append(float(there[0]))
    if not tried:
        return "—"
    if not reached:
        return "never"
    return mean_and_interval(reached, 0) + (f" ({len(reached)} of {tried} seeds)" if len(reached) < tried else "")


def table(folder: Path = VAE) -> str:
    """Three tables, estimators down, data sets and models across; every column at one number of iterations."""
    groups = finished(folder)
    if not groups:
        return "No run is finished."
    # what every run of a column has done: compared at equal iterations
    budget = {column: min(r["iterations"] for rs in of.values() for r in rs) for column, of in groups.items()}
    names = [name for name in CASES if any(name in of for of in groups.values())]
    heads = [f"{data}, {MODEL_LABELS[model]} ({budget[data, model]:,})" for data, model in groups]
    parts = []
    for title, key, paper in (
        ("**Highest training ELBO** (the paper's at 2,000,000 iterations)", "train_elbo", PAPER_TRAIN),
        ("**Highest validation ELBO** (the paper's at 2,000,000)", "validation_elbo", PAPER_VALIDATION),
        ("**Iterations to REBAR's highest validation ELBO** (the paper's in epochs)", None, PAPER_EPOCHS),
    ):
        rows = ["| estimator | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
        for name in names:
            cells = []
            for column, of in groups.items():
                if name not in of:
                    cell = "—"
                elif key is None:
                    cell = iterations_to(of[name], of.get(REBAR, []), budget[column])
                else:
                    cell = best(of[name], key, budget[column])
                if name in paper.get(column, {}):
                    cell += f" [{paper[column][name]:g}{'' if key else ' epochs'}]"
                cells.append(cell)
            rows.append(f"| {LABELS[name]} | " + " | ".join(cells) + " |")
        parts.append(title + "\n\n" + "\n".join(rows))
    return "\n\n".join(parts)


def bench_table(folder: Path = VAE) -> str:
    """Iterations per second, and time over Concrete's."""
    path = folder / "bench.json"
    if not path.exists():
        return "Not measured."
    record = json.loads(path.read_text())
    rows_of = {(row["case"], row["model"]): row for row in record["rows"]}
    rows = [
        "| estimator | " + " | ".join(f"{MODEL_LABELS[m]}: iterations/s, time ÷ Concrete's" for m in MODELS) + " |",
        "|---|" + "---|" * len(MODELS),
    ]
    for case in dict.fromkeys(row["case"] for row in record["rows"]):
        cells = []
        for model in MODELS:
            row = rows_of.get((case, model))
            if row is None:
                cells.append("—")
                continue
            asked = f" (asked ≤ {row['target']})" if row["target"] else ""
            cells.append(f"{row['iterations_per_second']:.0f}, {row['ratio']:.2f}{asked}")
        rows.append(f"| {LABELS.get(case, case)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)
