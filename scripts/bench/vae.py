"""Speed of a training iteration of the VAE: every estimator in turns, in one process, on one thread.

    python -m scripts.bench.vae --compiled relax rebar [--rounds 15] [--output results]

Whole iterations on random 28 x 28 bits, batch 24, 200 bits a layer. The process's CPU time is measured, which
other work on the machine disturbs less than the wall-clock time; every ratio is one within a round.
Beside the core's Concrete stands the plainest Concrete iteration that autograd can do, for scale. ``--compiled``
names estimators whose compiled form takes its turns as well; it is compared with Concrete's compiled form.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sb3_relax.tasks.process import prepare_cpu
from sb3_relax.tasks.vae.cases import CASES
from sb3_relax.tasks.vae.data import Dataset
from sb3_relax.tasks.vae.model import MODELS
from sb3_relax.tasks.vae.objective import LogWeight
from sb3_relax.tasks.vae.trainer import Config, Trainer
from scripts.bench.turns import in_turns
from scripts.records import add_output, provenance, write_record

#: case → the most iterations of Concrete it may cost
TARGETS = {"relax": 2.5, "rebar": 1.7, "rebar_baseline": 1.7}
REFERENCE = "concrete"
PLAIN = "concrete, plain autograd"


def random_data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(5000, 784, generator=generator) < torch.rand(784, generator=generator)).float()
    return Dataset("random bits", x, x[:100], x[:100], (28, 28), "random bits", True)


def plain_concrete(trainer: Trainer) -> Callable[[], None]:
    """Concrete with one layer by .backward() through everything, and nothing else."""
    model, optimizer, generator = trainer.model, trainer.optimizer, torch.Generator().manual_seed(0)

    def step() -> None:
        x = trainer.batch(trainer.iteration)
        optimizer.zero_grad()
        f = LogWeight(model, x)
        theta = f.logits(0)
        u = torch.rand(theta.shape, generator=generator).clamp(1e-7, 1 - 1e-7)
        f(((theta + u.logit()) / 0.5).sigmoid()).mean().backward()
        optimizer.step()
        trainer.iteration += 1

    return step


class Form(NamedTuple):
    """What takes a turn."""

    case: str
    compiled: bool


def measure(model: str, rounds: int, steps: int, compiled: set[str]) -> list[dict[str, Any]]:
    """One row per estimator and form.

    :param compiled: whose compiled forms take part; none, or Concrete's among them
    """
    data = random_data()
    forms: dict[Form, Callable[[], None]] = {}
    for name in CASES:
        if name == "vimco" and MODELS[model][0] > 1:
            continue
        for compile in (False, True) if name in compiled else (False,):
            forms[Form(name, compile)] = Trainer(Config(model=model, estimator=name, compile=compile), data).step
    if MODELS[model][0] == 1:
        forms[Form(PLAIN, False)] = plain_concrete(Trainer(Config(model=model, estimator="concrete"), data))
    seconds = in_turns(forms, rounds, steps, description=model)
    rows = []
    for form in forms:
        ratios = seconds[form] / seconds[Form(REFERENCE, form.compiled)]
        rows.append(
            {
                "model": model,
                **form._asdict(),
                "iterations_per_second": round(float(1 / np.median(seconds[form])), 1),
                "ratio": round(float(np.median(ratios)), 3),
                "quartiles": [round(float(q), 3) for q in np.quantile(ratios, (0.25, 0.75))],
                "over_plain": round(float(np.median(seconds[form] / seconds[Form(form.case, False)])), 3),
                "target": TARGETS.get(form.case),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=100, help="iterations of one estimator in one round")
    parser.add_argument(
        "--compiled", nargs="+", choices=list(CASES), help="measure the compiled forms of these as well"
    )
    add_output(parser, "vae/bench.json")
    options = parser.parse_args()
    prepare_cpu(1)
    compiled = {REFERENCE, *options.compiled} if options.compiled else set()
    rows = [row for model in MODELS for row in measure(model, options.rounds, options.steps, compiled)]
    write_record(options.output / "vae" / "bench.json", {"rows": rows, "batch_size": 24, "threads": 1, **provenance()})
    table = Table(
        "model", "estimator", "iterations / CPU second", "time ÷ Concrete's (quartiles)", "asked", "÷ plain form"
    )
    for row in rows:
        low, high = row["quartiles"]
        asked = f"<= {row['target']}" if row["target"] else ""
        rate = f"{row['iterations_per_second']:.0f}"
        name = f"{row['case']}, compiled" if row["compiled"] else row["case"]
        over_plain = f"{row['over_plain']:.2f}" if row["compiled"] else ""
        table.add_row(row["model"], name, rate, f"{row['ratio']:.2f} [{low:.2f}, {high:.2f}]", asked, over_plain)
    Console().print(table)


if __name__ == "__main__":
    main()
