"""The floor under a training iteration of the VAE: the matrix products that it is made of, and one step of Adam.

    python -m scripts.bench.vae_floor [--rounds 25] [--seeds 3] [--output results]

One iteration of every estimator (linear model of one layer, batch 24) is watched, backward passes included: the shapes
of all its matrix products are written down. Then products of these shapes alone are timed, of random numbers, and a
fused step of Adam over all parameters. Their sum is what an implementation by torch's kernels cannot leave out. The
same is done with the weights of several seeds stacked, as one batched product for each: what training seeds together
could gain.

Plain and compiled iterations, the floor, and the floor of several seeds take turns in one process, on one thread. CPU
time is measured; written down are medians over the turns, and medians of the ratios within a turn.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_relax.tasks.process import prepare_cpu
from sb3_relax.tasks.vae.trainer import Config, Trainer
from scripts.bench.turns import in_turns
from scripts.bench.vae import random_data
from scripts.records import add_output, provenance, write_record

ESTIMATORS = ("concrete", "nvil", "muprop", "rebar", "relax")
MODEL = "linear1"
#: iterations of each in a turn
ITERATIONS = 20
#: which arguments of a product are its two matrices
PRODUCTS = {
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.bmm.default: (0, 1),
}


class Products(TorchDispatchMode):
    """Inside, the shapes and strides of the matrices of every product are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            self.seen[tuple((*args[i].shape, *args[i].stride()) for i in PRODUCTS[func])] += 1
        return func(*args, **(kwargs or {}))


def matrix(rows: int, columns: int, row_stride: int, _: int, seeds: int) -> torch.Tensor:
    """A random one, transposed in memory where it was; of several seeds, one after the other."""
    stacked = (seeds,) if seeds > 1 else ()
    if row_stride == 1 and rows > 1:
        return torch.randn(*stacked, columns, rows).transpose(-1, -2)
    return torch.randn(*stacked, rows, columns)


def products_alone(seen: Counter[tuple[Any, ...]], seeds: int) -> Callable[[], None]:
    """All products of an iteration, each as often as there."""
    pairs = [(matrix(*a, seeds=seeds), matrix(*b, seeds=seeds), count) for (a, b), count in seen.items()]
    outputs = [a @ b for a, b, _ in pairs]

    @torch.no_grad()
    def once() -> None:
        for (a, b, count), out in zip(pairs, outputs, strict=True):
            for _ in range(count):
                torch.matmul(a, b, out=out)

    return once


def adam_alone(numbers: int, seeds: int) -> Callable[[], None]:
    """A step of so many numbers for each seed, in one tensor."""
    weight = torch.nn.Parameter(torch.randn(numbers * seeds))
    weight.grad = torch.randn_like(weight)
    optimizer = torch.optim.Adam([weight], lr=1e-3, fused=True)

    def once() -> None:
        optimizer.step()

    return once


def floating_point_operations(seen: Counter[tuple[Any, ...]]) -> int:
    """Multiplications and additions of all products."""
    return sum(2 * a[0] * a[1] * b[1] * count for (a, b), count in seen.items())


def measure(estimator: str, rounds: int, seeds: int) -> dict[str, Any]:
    """One row; milliseconds of CPU time of an iteration."""
    data = random_data()
    trainers = {
        compile: Trainer(Config(model=MODEL, estimator=estimator, compile=compile), data) for compile in (False, True)
    }
    watched = trainers[False]
    watched.step()  # the first one makes what Adam keeps
    with Products() as products:
        watched.step()
    numbers = sum(weight.numel() for weight in [*watched.model.parameters(), *watched.estimators.parameters()])
    turns: dict[str, Callable[[], None]] = {"plain": watched.step, "compiled": trainers[True].step}
    for count, suffix in ((1, ""), (seeds, " of all seeds")):
        turns[f"products{suffix}"] = products_alone(products.seen, count)
        turns[f"Adam{suffix}"] = adam_alone(numbers, count)
    times = {turn: 1e3 * seconds for turn, seconds in in_turns(turns, rounds, ITERATIONS).items()}
    floor = times["products"] + times["Adam"]
    of_all = times["products of all seeds"] + times["Adam of all seeds"]
    return {
        "estimator": estimator,
        "megaflop": round(floating_point_operations(products.seen) / 1e6, 1),
        "parameters": numbers,
        "milliseconds": {name: round(float(np.median(values)), 3) for name, values in times.items()},
        "floor": round(float(np.median(floor)), 3),
        "over_floor": {name: round(float(np.median(times[name] / floor)), 2) for name in ("plain", "compiled")},
        "all_seeds_over_one": {
            "products": round(float(np.median(times["products of all seeds"] / times["products"])), 2),
            "floor": round(float(np.median(of_all / floor)), 2),
            "floor_over_compiled": round(float(np.median(of_all / times["compiled"])), 2),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    add_output(parser, "vae/floor.json")
    options = parser.parse_args()
    prepare_cpu(1)
    rows = [measure(estimator, options.rounds, options.seeds) for estimator in track(ESTIMATORS, description="floor")]
    record = {"rows": rows, "model": MODEL, "batch_size": 24, "seeds": options.seeds, "threads": 1, **provenance()}
    write_record(options.output / "vae" / "floor.json", record)
    table = Table(
        "estimator", "MFLOP", "products", "Adam", "plain ÷ floor", "compiled ÷ floor", "floor of all seeds ÷ one"
    )
    for row in rows:
        spent, over, seeds = row["milliseconds"], row["over_floor"], row["all_seeds_over_one"]
        table.add_row(
            row["estimator"],
            f"{row['megaflop']:.0f}",
            f"{spent['products']:.2f} ms",
            f"{spent['Adam']:.2f} ms",
            f"{over['plain']:.2f}",
            f"{over['compiled']:.2f}",
            f"{seeds['floor']:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
