"""What answers "Which estimator?": variance × calls of f, by what b is and how peaked p is.

    python -m scripts.bench.which [--part positive|peaked|normals|classes] [--output results]

*positive*: four Gammas, four Betas, or a Dirichlet of five, and f the squared distance of b (of log b for Gammas) to a
target. Every estimator has f as a black box but Reparam, which takes ∂f. *peaked*: one variable of sixteen classes,
logits normal with a standard deviation (the peak) of 0 to 4, and f any number for each of them. *normals*: four of
them, and f a quadratic of all, or the sum of their distances to a target. *classes*: two variables of three to ten
classes, standard normal logits, and f any number for each pair.

Everything is at a fixed θ, after φ was trained there: Adam, the better of two rates by a tuning stream of random
numbers, the same number of steps for all. Variance is over fresh samples, times calls of f, over REINFORCE's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.distributions import Beta, Dirichlet, Gamma

from sb3_relax.estimators import Gaussian, GumbelOneHot, Implicit, gradient_variance
from scripts.bench.estimators import Build, plain, tuned
from scripts.bench.problems import Problem
from scripts.records import add_output, provenance, write_record

RATES = (3e-3, 1e-2)
INSTANCES = 3
SAMPLES = 20_000
PEAKS = (0, 1, 2, 3, 4)


POSITIVE: dict[str, Build] = {
    "reinforce": plain("reinforce"),
    "nvil": plain("nvil"),
    "rloo K=2": plain("rloo"),
    "lax": plain("lax"),
    "reparam (needs ∂f)": plain("reparam"),
}
PEAKED: dict[str, Build] = {
    "reinforce": plain("reinforce"),
    "nvil": plain("nvil"),
    "relax": plain("relax"),
    "rloo K=4": plain("rloo", samples=4),
    "coupled_categorical K=4": plain("coupled_categorical", samples=4),
    "unordered_set K=4": plain("unordered_set", samples=4),
}
NORMALS: dict[str, Build] = {
    "reinforce": plain("reinforce"),
    "nvil": plain("nvil"),
    "rloo K=2": plain("rloo"),
    "mirrored": plain("mirrored"),
    "lax": plain("lax"),
    "lax_curvature": plain("lax_curvature"),
    "reparam (needs ∂f)": plain("reparam"),
    "linearised_reparam (needs ∂²f)": plain("linearised_reparam"),
}
CLASSES: dict[str, Build] = {
    "reinforce": plain("reinforce"),
    **{
        f"{name} K={samples}": plain(name, samples=samples)
        for samples in (2, 4)
        for name in ("rloo", "coupled_categorical", "carms", "unordered_set")
    },
}


def gammas(instance: int) -> Problem:
    generator = torch.Generator().manual_seed(instance)
    first, second, target = torch.rand(3, 4, generator=generator)
    latent = Implicit(Gamma(1 + 4 * first, 0.5 + second))
    return Problem(latent, lambda b: (b.log() - 2 * target).square().sum(-1))


def betas(instance: int) -> Problem:
    generator = torch.Generator().manual_seed(instance)
    first, second, target = torch.rand(3, 4, generator=generator)
    return Problem(Implicit(Beta(1 + 3 * first, 1 + 3 * second)), lambda b: (b - target).square().sum(-1))


def dirichlet(instance: int) -> Problem:
    generator = torch.Generator().manual_seed(instance)
    concentration, target = torch.rand(2, 5, generator=generator)
    target = target / target.sum()
    return Problem(Implicit(Dirichlet(1 + 3 * concentration)), lambda b: (b - target).square().sum(-1))


def normals(f: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[int], Problem]:
    """:param f: of b, a target ``[4]`` and a matrix ``[4, 4]``"""

    def problem(instance: int) -> Problem:
        generator = torch.Generator().manual_seed(instance)
        loc, target = torch.randn(2, 4, generator=generator)
        log_scale = -torch.rand(4, generator=generator)
        matrix = torch.randn(4, 4, generator=generator)
        return Problem(Gaussian(loc, log_scale), lambda b: f(b, target, matrix))

    return problem


def quadratic(b: Tensor, target: Tensor, matrix: Tensor) -> Tensor:
    return ((b - target) @ matrix).square().sum(-1)


def distance(b: Tensor, target: Tensor, matrix: Tensor) -> Tensor:
    return (b - target).abs().sum(-1)


def pair_of(classes: int) -> Callable[[int], Problem]:
    def problem(instance: int) -> Problem:
        generator = torch.Generator().manual_seed(instance)
        logits, values = (
            torch.randn(2, classes, generator=generator),
            torch.randn(classes, classes, generator=generator),
        )
        return Problem(GumbelOneHot(logits), lambda b: ((b[..., 0, :] @ values) * b[..., 1, :]).sum(-1))

    return problem


def peaked(scale: float) -> Callable[[int], Problem]:
    def problem(instance: int) -> Problem:
        logits, values = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(instance))

        def f(b: Tensor) -> Tensor:
            return (b * values).sum((-2, -1))

        return Problem(GumbelOneHot(scale * logits), f)

    return problem


#: part → (its problems, what is compared)
PARTS: dict[str, tuple[dict[str, Callable[[int], Problem]], dict[str, Build]]] = {
    "positive": ({"Gamma": gammas, "Beta": betas, "Dirichlet": dirichlet}, POSITIVE),
    "peaked": ({f"{scale}": peaked(scale) for scale in PEAKS}, PEAKED),
    "normals": ({"quadratic": normals(quadratic), "distance": normals(distance)}, NORMALS),
    "classes": ({f"{classes}": pair_of(classes) for classes in (3, 5, 10)}, CLASSES),
}


def measure(problem: Problem, build: Build, instance: int) -> dict[str, Any]:
    """Variance × calls of one estimator, its φ trained."""
    rate, estimator = tuned(build, problem, RATES)
    variance, error = gradient_variance(
        estimator, problem.latent, problem.f, SAMPLES, torch.Generator().manual_seed(instance)
    )
    return {"rate": rate, "evaluations": estimator.evaluations, "variance": variance, "standard_error": error}


def run(part: str, folder: Path) -> None:
    torch.set_num_threads(1)
    problems, cases = PARTS[part]
    rows: list[dict[str, Any]] = [
        {"problem": name, "instance": instance, "case": case, **measure(build_problem(instance), build, instance)}
        for name, build_problem in problems.items()
        for instance in range(INSTANCES)
        for case, build in cases.items()
    ]
    settings = {"rates": RATES, "instances": INSTANCES, "samples": SAMPLES}
    write_record(folder / f"{part}.json", {"rows": rows, "settings": settings, **provenance()})
    table = Table("case", *problems, title=f"{part}: variance × calls, reinforce = 1")
    cost = {(r["problem"], r["instance"], r["case"]): r["variance"] * r["evaluations"] for r in rows}
    for case in cases:
        medians = [
            torch.tensor([cost[p, i, case] / cost[p, i, "reinforce"] for i in range(INSTANCES)]).median().item()
            for p in problems
        ]
        table.add_row(case, *(f"{ratio:.2g}" for ratio in medians))
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), nargs="+", default=list(PARTS))
    add_output(parser, "which/PART.json for every part")
    arguments = parser.parse_args()
    for part in arguments.part:
        run(part, arguments.output / "which")


if __name__ == "__main__":
    main()
