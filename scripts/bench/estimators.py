"""Variance and time of every unbiased estimator, REINFORCE = 1, on four problems.

    python -m scripts.bench.estimators [--part variance|time] [--case NAME ...] [--jobs 2]

Variance: at a fixed θ, after φ was trained there (Adam, the best of three rates by a tuning stream of random numbers,
the same number of steps for all), over fresh samples. At equal evaluations: variance × evaluations of f, since that
many REINFORCE estimates could be averaged instead. Time: one estimate and its backward(), batch 24, one thread; each
ratio compares neighbours in time. Peers (storchastic, pydrobert-pytorch) join the time part where they are installed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from rich.console import Console
from rich.table import Table

from sb3_relax.estimators import (
    REBAR,
    RELAX,
    Estimator,
    MLPSurrogate,
    TwoPhaseEstimator,
    exact_gradient,
    gradient_variance,
    make,
)
from sb3_relax.estimators.latents import Latent, LogisticBernoulli
from scripts.bench.peers import PEERS, installed, ours
from scripts.bench.problems import PROBLEMS, TIMED_PROBLEMS, Problem
from scripts.bench.turns import in_turns
from scripts.records import add_output, provenance, write_record

BATCH = 24
RATES = (1e-3, 3e-3, 1e-2)
TRAINING_STEPS = 2000
INSTANCES = 3
VARIANCE_SAMPLES = 20_000

Build = Callable[[Latent], Estimator]


def plain(name: str, **kwargs: Any) -> Build:
    return lambda latent: make(name, latent, **kwargs)


#: what is compared, in the table's order; cases whose estimator does not take a problem's latent are left out. Each is
#: as its paper has it, without the mean of f that ours subtract by default: φ is trained for long enough to know it
CASES: dict[str, Build] = {
    "reinforce": plain("reinforce"),
    "nvil": plain("nvil"),
    "relax": plain("relax", center=False),
    "relax, independent": plain("relax", coupled=False, center=False),
    "dlax": plain("dlax", center=False),
    "arm": plain("arm"),
    "disarm": plain("disarm"),
    "rloo K=2": plain("rloo", samples=2),
    "muprop": plain("muprop"),
    "rebar": plain("rebar", center=False),
    "rebar + residual": lambda latent: REBAR(residual=MLPSurrogate.of(latent), center=False),
    "double_cv K=2": plain("double_cv", samples=2, scale=-1.0),
    "rodeo K=2": plain("rodeo", samples=2),
    "relaxed_double_cv K=2": plain("relaxed_double_cv", samples=2, scale=-1.0),
    "rebar, independent": plain("rebar", coupled=False, center=False),
    "rloo K=3": plain("rloo", samples=3),
    "double_cv K=3": plain("double_cv", samples=3, scale=-1.0),
    "relaxed_double_cv K=3": plain("relaxed_double_cv", samples=3, scale=-1.0),
    "rodeo K=3": plain("rodeo", samples=3),
}


def accepts(build: Build, latent: Latent) -> bool:
    try:
        build(latent).require_latent(latent)
    except TypeError:
        return False
    return True


def trained(build: Build, problem: Problem, rate: float, seed: int) -> Estimator:
    torch.manual_seed(seed)
    estimator = build(problem.latent)
    parameters = list(estimator.parameters())
    optimizer = torch.optim.Adam(parameters, rate) if parameters else None
    wide = problem.latent.detach().expand(BATCH)
    for _ in range(TRAINING_STEPS):
        for parameter in parameters:
            parameter.grad = None
        if optimizer is None and not list(estimator.buffers()):
            break  # nothing to train
        estimator(wide, problem.f).backward()
        if optimizer is not None:
            optimizer.step()
    return estimator


def tuned(build: Build, problem: Problem, rates: Sequence[float]) -> tuple[float, Estimator]:
    """The best of some learning rates by a tuning stream of random numbers, and the estimator whose φ it trained."""
    rates = rates if list(build(problem.latent).parameters()) else rates[:1]
    candidates = [trained(build, problem, rate, seed=1000 + i) for i, rate in enumerate(rates)]
    tuning = [
        gradient_variance(e, problem.latent, problem.f, 5_000, torch.Generator().manual_seed(77)).variance
        for e in candidates
    ]
    best = int(np.argmin(tuning))
    return rates[best], candidates[best]


def measure_variance(name: str, problem_name: str, instance: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    problem = PROBLEMS[problem_name](instance)
    rate, estimator = tuned(CASES[name], problem, RATES)
    variance, error = gradient_variance(
        estimator, problem.latent, problem.f, VARIANCE_SAMPLES, torch.Generator().manual_seed(instance)
    )
    return {
        "problem": problem_name,
        "instance": instance,
        "case": name,
        "evaluations": estimator.evaluations,
        "needs_grad_f": estimator.needs_grad_f,
        "rate": rate,
        "variance": variance,
        "standard_error": error,
    }


def run_variance(jobs: int, cases: list[str], folder: Path) -> None:
    """Measure ``cases``; rows of others stay as they were recorded, each with its commit."""
    path = folder / "variance.json"
    origin = provenance()
    todo = [
        (name, problem, instance)
        for problem in PROBLEMS
        for name in cases
        if accepts(CASES[name], PROBLEMS[problem](0).latent)
        for instance in range(INSTANCES)
    ]
    rows = Parallel(n_jobs=jobs, verbose=5)(delayed(measure_variance)(*args) for args in todo)
    rows = [{**row, "commit": origin["commit"]} for row in rows]
    if path.exists():
        before = json.loads(path.read_text())
        rows += [{"commit": before["commit"], **row} for row in before["rows"] if row["case"] not in cases]
    order = [(problem, case) for problem in PROBLEMS for case in CASES]
    rows.sort(key=lambda row: (order.index((row["problem"], row["case"])), row["instance"]))
    settings = {
        "training_steps": TRAINING_STEPS,
        "batch": BATCH,
        "rates": RATES,
        "samples": VARIANCE_SAMPLES,
        "instances": INSTANCES,
    }
    write_record(path, {"rows": rows, "settings": settings, **origin})


def step_of(estimator: Estimator, problem: Problem, two_phases: bool = False) -> Callable[[], None]:
    theta = problem.latent.theta.detach().expand(BATCH, *problem.latent.theta.shape).clone().requires_grad_()
    parameters = [theta, *estimator.parameters(), *problem.parameters]

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        latent = problem.latent.at(theta)
        if two_phases:
            assert isinstance(estimator, TwoPhaseEstimator)
            b = latent.sample()
            estimator.finish(latent, b, problem.f(b)).backward()
        else:
            estimator(latent, problem.f).backward()

    return step


def run_time(repeats: int, calls: int, folder: Path) -> None:
    torch.set_num_threads(1)
    rows = []
    for problem_name, build_problem in TIMED_PROBLEMS.items():
        problem = build_problem(0)
        steps = {
            name: step_of(build(problem.latent), problem)
            for name, build in CASES.items()
            if accepts(build, problem.latent)
        }
        wide = MLPSurrogate.of(problem.latent, hidden=(200, 200))
        steps["relax, surrogate of 200, 200"] = step_of(RELAX(wide, center=False), problem)
        steps["relax, two phases"] = step_of(make("relax", problem.latent, center=False), problem, two_phases=True)
        steps["relax, independent, two phases"] = step_of(
            make("relax", problem.latent, coupled=False, center=False), problem, two_phases=True
        )
        if isinstance(problem.latent, LogisticBernoulli):
            for peer in installed():
                peers = PEERS[peer](problem, BATCH, MLPSurrogate.of(problem.latent))
                steps.update({name: step.run for name, step in peers.items()})
        seconds = in_turns(steps, repeats, calls, time.perf_counter)
        reference = seconds["reinforce"]
        for name, values in seconds.items():
            ratios = values / reference
            rows.append(
                {
                    "problem": problem_name,
                    "case": name,
                    "microseconds": float(np.median(values) * 1e6),
                    "ratio": float(np.median(ratios)),
                    "quartiles": [float(q) for q in np.quantile(ratios, (0.25, 0.75))],
                }
            )
    settings = {"batch": BATCH, "threads": 1, "repeats": repeats, "calls": calls, "peers": check_peers()}
    write_record(folder / "time.json", {"rows": rows, **settings, **provenance()})


def check_peers(samples: int = 100_000) -> list[dict[str, Any]]:
    """Bias and variance of RELAX on the toy with one surrogate of random weights, ours and the peers'."""
    rows = []
    if not installed():
        return rows
    problem = PROBLEMS["toy"](1)
    exact = exact_gradient(problem.latent, problem.f).score
    torch.manual_seed(0)
    surrogate = MLPSurrogate.of(problem.latent)
    torch.nn.init.normal_(surrogate.output.weight, std=0.4)
    steps = {**ours(problem, samples, surrogate), **ours(problem, samples, surrogate, coupled=False)}
    for peer in installed():
        steps.update(PEERS[peer](problem, samples, surrogate))
    for name, step in steps.items():
        step.run()
        grad = step.theta.grad * samples
        z = (grad.mean(0) - exact) / (grad.std(0) / samples**0.5)
        rows.append({"case": name, "z": z.abs().max().item(), "variance": grad.var(0).sum().item()})
    return rows


def show(folder: Path) -> None:
    for part, columns in (
        ("variance", ("evaluations", "variance", "standard_error")),
        ("time", ("microseconds", "ratio")),
    ):
        path = folder / f"{part}.json"
        if not path.exists():
            continue
        table = Table("problem", "case", *columns, title=part)
        for row in json.loads(path.read_text())["rows"]:
            table.add_row(row["problem"], row["case"], *(f"{row[c]:.4g}" for c in columns))
        Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("variance", "time"), help="one part alone; both where left out")
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES), help="of the variance part")
    parser.add_argument("--jobs", type=int, default=2, help="processes of the variance part")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--calls", type=int, default=40, help="calls per repeat of the time part")
    add_output(parser, "estimators/variance.json and estimators/time.json")
    arguments = parser.parse_args()
    folder = arguments.output / "estimators"
    if arguments.part in (None, "time"):
        run_time(arguments.repeats, arguments.calls, folder)
    if arguments.part in (None, "variance"):
        run_variance(arguments.jobs, arguments.case, folder)
    show(folder)


if __name__ == "__main__":
    main()
