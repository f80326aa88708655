"""Does it help to subtract a running mean of f, where c_φ is learned from its start? The variance on the way.

    python -m scripts.bench.center [--output results]

f has a mean of 10 or of 0 and a standard deviation near 1: of eight bits (a linear part and one square), of four
variables of ten classes (the same), or of four normals (a quadratic). θ descends on E[f] and φ on Eq 6, both by Adam
from their usual start. At given steps Σ Var(ĝ) is measured over fresh samples at the run's θ, with everything as it
then is. A pair of runs differs in ``center`` alone, and its ratio of variances, with over without, is averaged as a
logarithm over seeds.

What was expected, written down before the first run: with a mean of 10, a tenth of the variance or less until step 200
for RELAX, LAX, DLAX and ExactCorrection, and equal variances (.9 to 1.1) at the end, but for DLAX, whose two score
terms do not share their noise and which stays lower; with REBAR, whose c has f's mean from the start, .9 to 1.1
throughout; with a mean of 0, .95 to 1.1 throughout for all.
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

from sb3_relax.estimators import Gaussian, GumbelOneHot, LogisticBernoulli, gradient_variance, make
from sb3_relax.estimators.latents import Latent
from scripts.records import add_output, provenance, write_record

MEANS = (0.0, 10.0)
MOMENTS = (0, 10, 30, 100)
SEEDS = 3
BATCH = 24
RATE = 0.01
SAMPLES = 1_000
#: estimator → what it is measured on
CASES = {
    "relax": ("bits", "classes"),
    "lax": ("normals",),
    "dlax": ("bits",),
    "exact_correction": ("bits",),
    "rebar": ("bits",),
}

#: (θ without batch, its latent, f)
Problem = tuple[Tensor, Callable[[Tensor], Latent], Callable[[Tensor], Tensor]]


def problem(name: str, seed: int) -> Problem:
    """One instance; f has mean 0 where θ starts, but for chance."""
    generator = torch.Generator().manual_seed(seed)
    if name == "normals":
        target = torch.randn(4, generator=generator)
        at_start = 4 + target.square().sum()
        return (
            torch.zeros(4, 2),
            lambda theta: Gaussian(theta[..., 0], theta[..., 1]),
            lambda b: ((b - target).square().sum(-1) - at_start) / 4,
        )
    shape, of = ((8,), LogisticBernoulli) if name == "bits" else ((4, 10), GumbelOneHot)
    linear, square = torch.randn(2, *shape, generator=generator)

    def f(b: Tensor) -> Tensor:
        x = (b - 1 / b.shape[-1] if name == "classes" else b - 0.5).flatten(-len(shape))
        return x @ linear.flatten() / 2 + (x @ square.flatten()).square() / 4

    return torch.zeros(shape), of, f


def run(estimator_name: str, problem_name: str, mean: float, center: bool, seed: int) -> dict[str, Any]:
    """One training run, and the variance at every moment."""
    torch.set_num_threads(1)
    theta, of, of_zero_mean = problem(problem_name, seed)
    theta.requires_grad_()
    torch.manual_seed(seed)
    estimator = make(estimator_name, of(theta), center=center)
    optimizer = torch.optim.Adam([theta, *estimator.parameters()], RATE)

    def f(b: Tensor) -> Tensor:
        return mean + of_zero_mean(b)

    variances = []
    for step in range(max(MOMENTS) + 1):
        if step in MOMENTS:
            generator = torch.Generator().manual_seed(step)
            variances.append(gradient_variance(estimator, of(theta), f, SAMPLES, generator, SAMPLES).variance)
        optimizer.zero_grad()
        estimator(of(theta).expand(BATCH), f).backward()
        optimizer.step()
    return {
        "estimator": estimator_name,
        "problem": problem_name,
        "mean": mean,
        "center": center,
        "seed": seed,
        "variance": [float(f"{variance:.4g}") for variance in variances],
    }


def ratios(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each case, at each moment: the mean over seeds of log(with / without), as a ratio, and its standard error."""
    rows = []
    for name, problem_name, mean in dict.fromkeys((r["estimator"], r["problem"], r["mean"]) for r in runs):
        of_case = [r for r in runs if (r["estimator"], r["problem"], r["mean"]) == (name, problem_name, mean)]
        with_m, without = (
            np.log(np.array([r["variance"] for r in of_case if r["center"] == center])) for center in (True, False)
        )
        difference = with_m - without
        error = difference.std(0, ddof=1) / len(difference) ** 0.5
        rows.append(
            {
                "estimator": name,
                "problem": problem_name,
                "mean": mean,
                "ratio": [float(f"{x:.3g}") for x in np.exp(difference.mean(0))],
                "log_error": [float(f"{x:.2g}") for x in error],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    add_output(parser, "center/record.json")
    arguments = parser.parse_args()
    todo = [
        (name, problem_name, mean, center, seed)
        for name, problems in CASES.items()
        for problem_name in problems
        for mean in MEANS
        for center in (True, False)
        for seed in range(SEEDS)
    ]
    runs = Parallel(n_jobs=arguments.jobs, verbose=5)(delayed(run)(*case) for case in todo)
    rows = ratios(runs)
    settings = {"moments": MOMENTS, "seeds": SEEDS, "batch": BATCH, "rate": RATE, "samples": SAMPLES}
    write_record(
        arguments.output / "center" / "record.json", {"rows": rows, "runs": runs, "settings": settings, **provenance()}
    )
    table = Table("estimator", "problem", "mean of f", *(f"step {moment}" for moment in MOMENTS))
    for row in rows:
        table.add_row(row["estimator"], row["problem"], f"{row['mean']:g}", *(f"{ratio:.3g}" for ratio in row["ratio"]))
    Console().print(table)


if __name__ == "__main__":
    main()
