"""What a GPU makes of an update of the VAE and of CnnPolicy: how often a second, and how far from its memory's limit.

    python -m scripts.bench.gpu                          # results/gpu.json
    python -m scripts.bench.gpu --device cpu --rounds 2 --estimators relax    # a try without one

Each estimator trains the linear VAE of one layer: as it is, compiled, and with several seeds in one batched graph. All
of an iteration of the last one (uniforms, gradient, Adam, running mean of f) is captured in a CUDA graph, and never
waits for the host. On a CPU that graph is compiled and not captured. No GPU has run this yet.

The floor of an iteration is the time in which the memory moves what every iteration has to: weights are read in the
forward and in the backward pass, gradients are written and read, and Adam reads and writes the weights and its two
moments. How fast the memory is, a copy of 256 MiB says. Weights that stay in the GPU's cache may be below this floor.

For CnnPolicy on 84 × 84 × 4 images, an update of RELAXA2C and one of SB3's A2C take turns, and it is counted how often
each makes the host wait for the GPU.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stable_baselines3 import A2C
from torch import nn

from sb3_relax import RELAXA2C
from sb3_relax.tasks.vae.compiled import VALUE, tensors_of, trace_gradient
from sb3_relax.tasks.vae.data import Dataset
from sb3_relax.tasks.vae.trainer import SHIFT_RATE, Config, Trainer
from scripts.bench.floor import iteration_of
from scripts.bench.idle import idle
from scripts.bench.turns import in_turns
from scripts.bench.vae import random_data
from scripts.records import add_output, provenance, write_record

ESTIMATORS = ("concrete", "nvil", "muprop", "rebar", "relax")
#: how often an iteration has to read or write a number of every weight, of its gradient and of Adam's moments
PASSES = 10
COPIED = 2**28
IMAGES = spaces.Box(0, 255, (4, 84, 84), np.uint8)


class SeveralSeeds:
    """Trainers of several seeds, all of whose iterations are one: their weights lie in one tensor for each name.

    Seed s of it does what its trainer would, to rounding, but for its uniforms, which come from one generator for all.

    :param config: its seed is not used
    :param seeds: of the trainers
    :param data: of all of them
    """

    def __init__(self, config: Config, seeds: Sequence[int], data: Dataset, device: torch.device):
        self.trainers = [Trainer(replace(config, seed=seed, compile=False), data, device) for seed in seeds]
        first = self.trainers[0]
        x = torch.stack([trainer.batch(0) for trainer in self.trainers])
        self.traced = trace_gradient(first.model, first.estimators, x[0], first.shift)
        self.graph = torch.compile(torch.vmap(self.traced.graph))
        named = [tensors_of(trainer.model, trainer.estimators) for trainer in self.trainers]
        self.state = {name: torch.stack([tensors[name].detach() for tensors in named]) for name in named[0]}
        self.weights = {
            name: nn.Parameter(self.state[name])
            for name, tensor in named[0].items()
            if isinstance(tensor, nn.Parameter)
        }
        names = {id(tensor): name for name, tensor in named[0].items()}
        self.optimizer = torch.optim.Adam(
            [
                {**group, "params": [self.weights[names[id(weight)]] for weight in group["params"]]}
                for group in first.optimizer.param_groups
            ],
            fused=True,
            capturable=device.type == "cuda",
        )
        self.shift = torch.zeros(len(seeds), device=device)
        self.steps = torch.zeros((), device=device)
        self.x = x
        self.iteration = 0

    def next_batch(self) -> None:
        """Bring the pixels of the next iteration to where :meth:`step` reads them, ``[S, *batch, D]``."""
        torch.stack([trainer.batch(self.iteration) for trainer in self.trainers], out=self.x)
        self.iteration += 1

    def step(self) -> None:
        """What the iteration does after that, of tensors that stay where they are."""
        seeds = len(self.shift)
        uniforms = [torch.rand(**{**draw, "size": (seeds, *draw["size"])}) for draw in self.traced.draws]
        state = {name: self.weights[name].detach() if name in self.weights else t for name, t in self.state.items()}
        with torch.no_grad():
            gradients = self.graph(state, self.x, self.shift, uniforms)
        centred = gradients.pop(VALUE).mean(-1)
        for name, weight in self.weights.items():
            weight.grad = gradients.get(name)
        self.optimizer.step()
        self.steps += 1
        self.shift += centred * (1 / self.steps).clamp(min=SHIFT_RATE)

    def iterate(self, step: Callable[[], None] | None = None) -> None:
        """One iteration of all seeds.

        :param step: :meth:`step` as it was captured, in its place
        """
        self.next_batch()
        (step or self.step)()


def captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """``step`` as one CUDA graph; itself on a CPU."""
    if device.type != "cuda":
        return step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(5):  # compiles, and makes what Adam keeps
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def clock(device: torch.device) -> float:
    """Seconds, once the device has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def bytes_a_second(device: torch.device, rounds: int) -> float:
    """That the memory moves: read and written in a copy."""
    source = torch.empty(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = in_turns({"copy": lambda: target.copy_(source)}, rounds, 10, partial(clock, device))["copy"]
    return 2 * COPIED / float(np.median(seconds))


def vae_row(
    estimator: str, seeds: int, rounds: int, calls: int, bandwidth: float, data: Dataset, device: torch.device
) -> dict[str, Any]:
    """Iterations a second of each form, those of all seeds counted, and the share of the floor in its time."""
    config = Config(model="linear1", estimator=estimator)
    turns: dict[str, Callable[[], Any]] = {
        "plain": Trainer(config, data, device).step,
        "compiled": Trainer(replace(config, compile=True), data, device).step,
    }
    counts = {"plain": 1, "compiled": 1}
    for number in (1, seeds):
        several = SeveralSeeds(config, range(number), data, device)
        turns[f"captured, seeds: {number}"] = partial(several.iterate, captured(several.step, device))
        counts[f"captured, seeds: {number}"] = number
    seconds = in_turns(turns, rounds, calls, partial(clock, device))
    moved = PASSES * sum(weight[0].numel() * weight.element_size() for weight in several.weights.values())
    return {
        "estimator": estimator,
        "bytes": moved,
        "iterations_a_second": {name: counts[name] / float(np.median(seconds[name])) for name in turns},
        "share_of_floor": {name: counts[name] * moved / bandwidth / float(np.median(seconds[name])) for name in turns},
    }


def waits(update: Callable[[], Any], device: torch.device) -> int | None:
    """How often an update makes the host wait for the GPU; ``None`` on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def images(rounds: int, calls: int, n_steps: int, device: torch.device) -> dict[str, Any]:
    """Seconds of an update of CnnPolicy, ours and A2C's, and how often each waits."""
    turns: dict[str, Callable[[], Any]] = {}
    for kind in (A2C, RELAXA2C):
        model = kind("CnnPolicy", idle(8, spaces.Discrete(6), IMAGES), n_steps=n_steps, seed=0, device=device)
        iteration_of(model, warm_up=1)()  # a rollout to update on
        turns[kind.__name__] = model.train
    seconds = in_turns(turns, rounds, calls, partial(clock, device))
    return {
        "n_steps": n_steps,
        "updates_a_second": {name: 1 / float(np.median(values)) for name, values in seconds.items()},
        "ours_over_a2c": float(np.median(seconds["RELAXA2C"] / seconds["A2C"])),
        "waits": {name: waits(update, device) for name, update in turns.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=ESTIMATORS)
    parser.add_argument("--seeds", type=int, default=16, help="that are trained in one batched graph")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=50, help="of each form in a round")
    parser.add_argument("--n-steps", type=int, default=64, help="of CnnPolicy's rollouts, in 8 environments")
    add_output(parser, "gpu.json")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU: --device cpu tries the script without one")
    bandwidth, data = bytes_a_second(device, arguments.rounds), random_data()
    rows = [
        vae_row(name, arguments.seeds, arguments.rounds, arguments.calls, bandwidth, data, device)
        for name in track(arguments.estimators, description="VAE")
    ]
    of_images = images(arguments.rounds, max(1, arguments.calls // 10), arguments.n_steps, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    record = {"device": name, "bytes_a_second": bandwidth, "vae": rows, "images": of_images, **provenance()}
    write_record(arguments.output / "gpu.json", record)
    table = Table(
        "estimator", *rows[0]["iterations_a_second"], title=f"iterations a second (share of the floor), {name}"
    )
    for row in rows:
        table.add_row(
            row["estimator"],
            *(f"{rate:,.0f} ({row['share_of_floor'][form]:.2f})" for form, rate in row["iterations_a_second"].items()),
        )
    Console().print(table, of_images)


if __name__ == "__main__":
    main()
