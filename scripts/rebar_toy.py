"""Can REBAR beat REINFORCE on the toy of the paper? The variance of both, exactly, for many η and τ.

    python scripts/rebar_toy.py [--record scripts/results/toy/rebar.json]

Var[ĝ] of REBAR over that of REINFORCE for one bit and f(b) = (b - t)², b enumerated and the relaxation's noise
integrated, coupled in closed form and with independent z and z̃; the least ratio over a grid of η and τ.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from joblib import Parallel, delayed
from records import RESULTS, provenance, write_record
from rich.console import Console
from rich.table import Table

from sb3_relax.estimators import REBAR, Estimator, LogisticBernoulli, Reinforce
from sb3_relax.estimators.exact import samples_with_probability
from sb3_relax.estimators.quadrature import product_rule, unit_interval_rule

TARGETS = (0.499, 0.49, 0.45, 0.4, 0.3)
LOGITS = (0.0, -1.0, -3.0)
TEMPERATURES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 2.0, 5.0, 10.0)
SCALES = (-1.0, -0.3, -0.1, 0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 3.0, 6.0, 12.0)
NODES = 121


def variance(estimator: Estimator, logit: float, target: float) -> float:
    """Var[ĝ] of one bit, without sampling."""
    latent = LogisticBernoulli(torch.tensor([logit], dtype=torch.float64))
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


def least_ratio(target: float, logit: float, coupled: bool) -> dict[str, float | bool]:
    torch.set_num_threads(1)
    of_reinforce = variance(Reinforce(), logit, target)
    ratios = {
        (tau, eta): variance(REBAR(tau, eta, coupled=coupled).double(), logit, target) / of_reinforce
        for tau, eta in itertools.product(TEMPERATURES, SCALES)
    }
    (tau, eta), ratio = min(ratios.items(), key=lambda item: item[1])
    return {"target": target, "logit": logit, "coupled": coupled, "ratio": ratio, "temperature": tau, "scale": eta}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, default=RESULTS / "toy" / "rebar.json")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    cases = itertools.product(TARGETS, LOGITS, (True, False))
    rows = Parallel(n_jobs=arguments.jobs)(delayed(least_ratio)(*case) for case in cases)
    write_record(
        arguments.record, {"rows": rows, "temperatures": TEMPERATURES, "scales": SCALES, "nodes": NODES, **provenance()}
    )
    table = Table("t", "θ", "form", "least Var[REBAR] ÷ Var[REINFORCE]", "at τ", "η")
    for row in rows:
        table.add_row(
            str(row["target"]),
            str(row["logit"]),
            "coupled" if row["coupled"] else "independent",
            f"{row['ratio']:.4f}",
            str(row["temperature"]),
            str(row["scale"]),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
