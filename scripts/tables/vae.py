"""Table 1 and the speed of the VAE, from the records in scripts/results/vae."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sb3_relax.tasks.intervals import half_width, plus_minus
from sb3_relax.tasks.vae.cases import CASES
from sb3_relax.tasks.vae.data import DATASETS
from sb3_relax.tasks.vae.model import MODELS
from sb3_relax.tasks.vae.trainer import Config
from scripts.records import RESULTS, Records, read_record

VAE = RESULTS / "vae"
MODEL_LABELS = {"linear1": "linear, one layer", "linear2": "linear, two layers", "nonlinear": "nonlinear"}
LABELS = {
    "concrete": "Concrete",
    "concrete_bits": "Concrete, decoder on bits",
    "nvil": "NVIL",
    "muprop": "MuProp",
    "rebar": "REBAR",
    "rebar_baseline": "REBAR with C_ψ",
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
#: a cell's text, from a column's records, an estimator and the budget
Cell = Callable[[dict[str, list[dict[str, Any]]], str, int], str]
#: Table 1's: Eq 8 with c(z) = η f(σ_τ(z)); Tucker et al. 2017 give it NVIL's and MuProp's baseline as well
REBAR = "rebar"

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
    ("mnist", "nonlinear"): {REBAR: 331},
    ("omniglot", "nonlinear"): {REBAR: 368},
}


def reported(folder: Path) -> Iterator[dict[str, Any]]:
    """Records of whole runs, or diverged ones, at the learning rate that was chosen, its own seed left out."""
    rates_path = folder / "rates.json"
    rates = read_record(rates_path) if rates_path.exists() else {}
    for record in Records(folder).read():
        entry = rates.get(f"{record['dataset']} {record['model']} {record['estimator']}")
        chosen = entry and (record["learning_rate"], record["phi_rate"]) == (entry["rate"], Config.phi_rate)
        if chosen and record["seed"] != entry.get("seed") and ("iwae_100" in record or "diverged" in record):
            yield record


def finished(folder: Path = VAE) -> dict[Column, dict[str, list[dict[str, Any]]]]:
    """(data set, model) → estimator → records of whole runs."""
    return in_columns(reported(folder))


def in_columns(records: Iterable[dict[str, Any]]) -> dict[Column, dict[str, list[dict[str, Any]]]]:
    """(data set, model) → estimator → those records that did not diverge, in the tables' order."""
    groups: dict[Column, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if "diverged" not in record:
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
    """Mean, with ± half of the 95% t-interval where there are several seeds, and how many there are."""
    mean, form = float(np.mean(values)), f",.{digits}f"
    if len(values) == 1:
        return f"{mean:{form}} (1)"
    return f"{plus_minus(mean, half_width(values), form)} ({len(values)})"


def highest(record: dict[str, Any], key: str, budget: int) -> float:
    """Of an ELBO, within the budget."""
    return float(curve(record, key, budget)[1].max())


def best(records: list[dict[str, Any]], key: str, budget: int) -> str:
    """Highest ELBO of each seed within the budget."""
    return mean_and_interval([highest(record, key, budget) for record in records], 2)


def ahead_of(reference: list[dict[str, Any]], records: list[dict[str, Any]], budget: int) -> str:
    """A reference's highest training ELBO less another's, of the same seeds: same first weights, same order of data."""
    of_seed = {record["seed"]: highest(record, "train_elbo", budget) for record in reference}
    gaps = [of_seed[r["seed"]] - highest(r, "train_elbo", budget) for r in records if r["seed"] in of_seed]
    return mean_and_interval(gaps, 2) if gaps else "—"


def iterations_to(records: list[dict[str, Any]], rebar: list[dict[str, Any]], budget: int) -> str:
    """Iterations until the validation ELBO is at the best of REBAR's run of the same seed: median of all seeds."""
    targets = {record["seed"]: highest(record, "validation_elbo", budget) for record in rebar}
    reached = []
    for record in records:
        if record["seed"] in targets:
            iterations, elbos = curve(record, "validation_elbo", budget)
            there = iterations[elbos >= targets[record["seed"]]]
            reached.append(float(there[0]) if len(there) else np.inf)
    if not reached:
        return "—"
    median = float(np.median(reached))
    return f"{median:,.0f} ({len(reached)})" if np.isfinite(median) else f"> {budget:,} ({len(reached)})"


def less_the_others(reference: str) -> Cell:
    """A cell of :data:`TABLES`: by how much an estimator is ahead of the row's."""

    def cell(of: dict[str, list[dict[str, Any]]], name: str, budget: int) -> str:
        return "—" if name == reference or reference not in of else ahead_of(of[reference], of[name], budget)

    return cell


def final_bound(of: dict[str, list[dict[str, Any]]], name: str, budget: int) -> str:
    """A cell of :data:`TABLES`."""
    at_end = [r["iwae_100"]["validation"] for r in of[name] if r["iterations"] == budget]
    return mean_and_interval(at_end, 2) if at_end else "—"


#: title, what its cells say, the paper's values, and their unit
TABLES: tuple[tuple[str, Cell, dict[Column, Any], str], ...] = (
    (
        "**Highest training ELBO** (the paper's at 2,000,000 iterations)",
        lambda of, name, budget: best(of[name], "train_elbo", budget),
        PAPER_TRAIN,
        "",
    ),
    ("**RELAX's highest training ELBO less the others'**, paired by seed", less_the_others("relax"), {}, ""),
    ("**REBAR's highest training ELBO less the others'**, paired by seed", less_the_others(REBAR), {}, ""),
    (
        "**Highest validation ELBO** (the paper's at 2,000,000)",
        lambda of, name, budget: best(of[name], "validation_elbo", budget),
        PAPER_VALIDATION,
        "",
    ),
    ("**Bound of 100 samples** (IWAE), validation images, after the last iteration", final_bound, {}, ""),
    (
        "**Iterations to REBAR's highest validation ELBO**, median of the seeds (the paper's in epochs)",
        lambda of, name, budget: iterations_to(of[name], of.get(REBAR, []), budget),
        PAPER_EPOCHS,
        " epochs",
    ),
)


def table(folder: Path = VAE) -> str:
    """Tables of estimators down, data sets and models across; every column at one number of iterations."""
    records = list(reported(folder))
    groups = in_columns(records)
    if not groups:
        return "No run is finished."
    # what every run of a column has done: compared at equal iterations
    budget = {column: min(r["iterations"] for rs in of.values() for r in rs) for column, of in groups.items()}
    names = [name for name in CASES if any(name in of for of in groups.values())]
    heads = [f"{data}, {MODEL_LABELS[model]} ({budget[data, model]:,})" for data, model in groups]
    parts = []
    for title, cell_of, paper, unit in TABLES:
        rows = ["| estimator | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
        for name in names:
            cells = []
            for column, of in groups.items():
                cell = cell_of(of, name, budget[column]) if name in of else "—"
                if name in paper.get(column, {}):
                    cell += f" [{paper[column][name]:g}{unit}]"
                cells.append(cell)
            rows.append(f"| {LABELS[name]} `{name}` | " + " | ".join(cells) + " |")
        parts.append(title + "\n\n" + "\n".join(rows))
    diverged = [
        f"{r['dataset']} {r['model']} {LABELS[r['estimator']]}, seed {r['seed']}" for r in records if "diverged" in r
    ]
    if diverged:
        parts.append("Diverged, and in no mean: " + "; ".join(diverged) + ".")
    return "\n\n".join(parts)


def bench_table(folder: Path = VAE) -> str:
    """Iterations per second, and time over Concrete's; the compiled forms in a table of their own."""
    path = folder / "bench.json"
    if not path.exists():
        return "Not measured."
    record = json.loads(path.read_text())
    parts = []
    for compiled in (False, True):
        rows_of = {(row["case"], row["model"]): row for row in record["rows"] if row["compiled"] == compiled}
        if not rows_of:
            continue
        what = "iterations/CPU s, time ÷ Concrete's" + (", ÷ its own plain form's" if compiled else "")
        rows = [
            f"| {'compiled' if compiled else 'plain'} | "
            + " | ".join(f"{MODEL_LABELS[m]}: {what}" for m in MODELS)
            + " |",
            "|---|" + "---|" * len(MODELS),
        ]
        for case in dict.fromkeys(case for case, _ in rows_of):
            cells = []
            for model in MODELS:
                row = rows_of.get((case, model))
                if row is None:
                    cells.append("—")
                    continue
                asked = f" (asked ≤ {row['target']})" if row["target"] else ""
                over_plain = f", {row['over_plain']:.2f}" if compiled else ""
                cells.append(f"{row['iterations_per_second']:.0f}, {row['ratio']:.2f}{asked}{over_plain}")
            rows.append(f"| {LABELS.get(case, case)} | " + " | ".join(cells) + " |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)
