"""Does Double CV's α start well? The variance of the first steps, REINFORCE's on the same way = 1.

    python -m scripts.bench.double_cv [--output results]

f is a function of ten bits: linear, a smooth network of them, a wave that its slopes at the corners say nothing of
(sin of a sum of the bits, twenty times over), or of four variables of ten classes (a linear part and one square). θ
descends on E[f] and α on Eq 6, both by Adam at .01, batch 24. At given steps Σ Var(ĝ) is measured over fresh samples at
the run's θ, with α as it then is. Beside it stand REINFORCE and RLOO at the same θ. All ratios are averaged as
logarithms over seeds. Ratios are those of one estimate, of two calls, over one of REINFORCE, of one call.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sb3_relax.estimators import RLOO, DoubleCV, GumbelOneHot, LogisticBernoulli, Reinforce, gradient_variance
from sb3_relax.estimators.latents import Latent
from scripts.records import add_output, provenance, write_record

MOMENTS = (0, 1, 3, 10, 30, 100)
SEEDS = 5
BATCH = 24
RATE = 0.01
SAMPLES = 4_000
#: α at the start → what DoubleCV is made with
STARTS: dict[str, float | None] = {"-1": -1.0, "0": 0.0, "warm": None}
PROBLEMS = ("linear", "network", "wave", "classes")

#: (shape of θ, its latent, f)
Problem = tuple[tuple[int, ...], Callable[[Tensor], Latent], Callable[[Tensor], Tensor]]


def problem(name: str, seed: int) -> Problem:
    """One instance."""
    generator = torch.Generator().manual_seed(seed)
    if name == "classes":
        w, v = torch.randn(2, 4, 10, generator=generator)
        return (4, 10), GumbelOneHot, lambda b: (b * w).sum((-2, -1)) + (b * v).sum((-2, -1)).square() / 4
    weight, inner, outer = (torch.randn(*shape, generator=generator) for shape in ((10,), (10, 20), (20,)))
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "linear": lambda b: b @ weight,
        "network": lambda b: torch.tanh((2 * b - 1) @ inner / 2) @ outer / 2,
        "wave": lambda b: (20 * b @ weight).sin(),
    }
    return (10,), LogisticBernoulli, functions[name]


def run(problem_name: str, start: str, seed: int) -> dict[str, Any]:
    """One training run, and the variances at every moment."""
    torch.set_num_threads(1)
    shape, of, f = problem(problem_name, seed)
    theta = torch.zeros(shape, requires_grad=True)
    torch.manual_seed(seed)
    estimator = DoubleCV(scale=STARTS[start])
    optimizer = torch.optim.Adam([theta, *estimator.parameters()], RATE)
    rows: dict[str, list[float]] = {"own": [], "rloo": [], "reinforce": [], "alpha": []}
    for step in range(max(MOMENTS) + 1):
        if step in MOMENTS:
            for key, other in (("own", estimator), ("rloo", RLOO()), ("reinforce", Reinforce())):
                generator = torch.Generator().manual_seed(step)
                variance = gradient_variance(other, of(theta), f, SAMPLES, generator, SAMPLES).variance
                rows[key].append(float(f"{variance:.4g}"))
            rows["alpha"].append(float(f"{(estimator.scale + estimator.least_squares).item():.4g}"))
        optimizer.zero_grad()
        estimator(of(theta).expand(BATCH), f).backward()
        optimizer.step()
    return {"problem": problem_name, "start": start, "seed": seed, **rows}


def ratios(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each case, at each moment: the mean over seeds of log(own / REINFORCE's), as a ratio, and its error."""
    rows = []
    for case in dict.fromkeys((r["problem"], r["start"]) for r in runs):
        of_case = [r for r in runs if (r["problem"], r["start"]) == case]
        own, rloo, plain = (np.log(np.array([r[key] for r in of_case])) for key in ("own", "rloo", "reinforce"))
        difference = own - plain
        rows.append(
            {
                **dict(zip(("problem", "start"), case, strict=True)),
                "ratio": [float(f"{x:.3g}") for x in np.exp(difference.mean(0))],
                "log_error": [float(f"{x:.2g}") for x in difference.std(0, ddof=1) / len(of_case) ** 0.5],
                "rloo": [float(f"{x:.3g}") for x in np.exp((rloo - plain).mean(0))],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    add_output(parser, "double_cv/record.json")
    arguments = parser.parse_args()
    todo = [(problem_name, start, seed) for problem_name in PROBLEMS for start in STARTS for seed in range(SEEDS)]
    runs = Parallel(n_jobs=arguments.jobs, verbose=5)(delayed(run)(*case) for case in todo)
    rows = ratios(runs)
    settings = {"moments": MOMENTS, "seeds": SEEDS, "batch": BATCH, "rate": RATE, "samples": SAMPLES}
    write_record(
        arguments.output / "double_cv" / "record.json",
        {"rows": rows, "runs": runs, "settings": settings, **provenance()},
    )
    table = Table("problem", "α starts at", *(f"step {moment}" for moment in MOMENTS), "RLOO at step 0")
    for row in rows:
        numbers = [f"{ratio:.3g}" for ratio in row["ratio"]]
        table.add_row(row["problem"], row["start"], *numbers, f"{row['rloo'][0]:.3g}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
