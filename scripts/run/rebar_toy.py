"""Can REBAR beat REINFORCE on the toy of the paper? The variance of both, exactly, at each τ with the best η.

    python -m scripts.run.rebar_toy [--output results]

Var[ĝ] of REBAR over that of REINFORCE at θ = 0, where training starts, for one bit and f(b) = (b - t)², b enumerated
and the relaxation's noise integrated, coupled in closed form and with independent z and z̃. The variance is a parabola
in η, whose vertex three of its points give.
"""

from __future__ import annotations

import argparse
import itertools

import torch
from joblib import Parallel, delayed
from rich.console import Console
from rich.table import Table

from sb3_relax.estimators import REBAR, Estimator, LogisticBernoulli, Reinforce
from sb3_relax.estimators.proofs.exact import samples_with_probability
from sb3_relax.estimators.proofs.quadrature import product_rule, unit_interval_rule
from scripts.records import add_output, provenance, write_record

TARGETS = (0.499, 0.49, 0.45, 0.4, 0.3)
TEMPERATURES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0, 1e3, 1e4)
NODES = 121


def variance(estimator: Estimator, target: float) -> float:
    """Var[ĝ] of one bit at θ = 0, without sampling."""
    latent = LogisticBernoulli(torch.zeros(1, dtype=torch.float64))
    shape = estimator.noise_shape(latent)
    nodes, weights = torch.zeros(1, 0), torch.ones(1, dtype=torch.float64)
    if shape is not None:
        rule = product_rule(unit_interval_rule(NODES), torch.Size(shape).numel(), NODES**2)
        nodes, weights = (torch.cat(part).double() for part in zip(*rule, strict=True))
    first = second = 0.0
    for b, probability in zip(*samples_with_probability(latent), strict=True):
        wide = latent.expand(len(weights))
        noise = None if shape is None else torch.stack(nodes.unbind(-1)).reshape(*shape[:-1], len(weights), 1)
        grad = estimator.estimate(
            wide, lambda bits: (bits - target).square().sum(-1), b.expand(len(weights), 1), noise
        ).grad.squeeze(-1)
        first += float(probability * (weights * grad).sum())
        second += float(probability * (weights * grad.square()).sum())
    return second - first**2


def best_scale(target: float, temperature: float, coupled: bool) -> dict[str, float | bool]:
    torch.set_num_threads(1)
    of_reinforce = variance(Reinforce(), target)
    step = max(1.0, temperature)  # c falls with τ: a parabola far wider than 1 is not seen from -1, 0 and 1
    above, below = (variance(REBAR(temperature, scale, coupled=coupled).double(), target) for scale in (step, -step))
    curvature, slope = (above + below - 2 * of_reinforce) / (2 * step**2), (above - below) / (2 * step)
    scale = -slope / (2 * curvature)
    ratio = variance(REBAR(temperature, scale, coupled=coupled).double(), target) / of_reinforce
    return {"target": target, "temperature": temperature, "coupled": coupled, "scale": scale, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output(parser, "toy/rebar.json")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    cases = itertools.product(TARGETS, TEMPERATURES, (True, False))
    rows = Parallel(n_jobs=arguments.jobs)(delayed(best_scale)(*case) for case in cases)
    write_record(arguments.output / "toy" / "rebar.json", {"rows": rows, "nodes": NODES, **provenance()})
    table = Table("t", "τ", "form", "best η", "Var[REBAR] ÷ Var[REINFORCE]")
    for row in rows:
        form = "coupled" if row["coupled"] else "independent"
        table.add_row(
            f"{row['target']:g}", f"{row['temperature']:g}", form, f"{row['scale']:.3g}", f"{row['ratio']:.4f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
