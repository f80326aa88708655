"""How the cost of an iteration grows: with environments, steps, widths, relaxed draws, sequences and actions.

    python -m scripts.bench.growth [--only environments] [--seconds 2] [--output results]

An iteration is a rollout and one update, in environments that do nothing. Every size has a process of its own, on one
thread, which tells the CPU time of an iteration (the median) and its own peak of memory. Sizes that the record has are
not measured again. ``growth.png`` shows both against the size; the table has the steepest power of the size by which
the time grows between two neighbouring sizes: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sb3_relax import RELAXA2C, RecurrentRELAXA2C
from scripts.bench.algorithms import N_ENVS
from scripts.bench.floor import iteration_of
from scripts.bench.idle import idle
from scripts.records import ROOT, add_output, provenance, read_record, write_record

#: iterations that are timed at least
LEAST = 3
DISCRETE = spaces.Discrete(6)


class Growth(NamedTuple):
    """What grows, and the agent of a size."""

    sizes: tuple[int, ...]
    agent: Callable[[int], Any]


def agent(
    n_envs: int = N_ENVS,
    action_space: spaces.Space = DISCRETE,
    kind: Any = RELAXA2C,
    policy: str = "MlpPolicy",
    **kwargs: Any,
) -> Any:
    return kind(policy, idle(n_envs, action_space), seed=0, device="cpu", **kwargs)


GROWTHS = {
    "environments": Growth((1, 4, 16, 64, 256), lambda size: agent(n_envs=size)),
    "n_steps": Growth((5, 32, 128, 512, 2048), lambda size: agent(n_steps=size)),
    "layer width": Growth(
        (64, 128, 256, 512, 1024), lambda size: agent(policy_kwargs={"net_arch": {"pi": [size] * 2, "vf": [size] * 2}})
    ),
    "relaxed draws": Growth((1, 2, 4, 8, 16), lambda size: agent(n_relaxed=size)),
    "recurrent n_steps": Growth(
        (16, 32, 64, 128, 256, 512),
        lambda size: agent(kind=RecurrentRELAXA2C, policy="MlpLstmPolicy", n_steps=size),
    ),
    "bits": Growth((1, 16, 256, 1024, 4096), lambda size: agent(action_space=spaces.MultiBinary(size))),
    "classes": Growth((2, 16, 256, 1024, 4096), lambda size: agent(action_space=spaces.Discrete(size))),
    "variables": Growth((1, 16, 256, 1024, 4096), lambda size: agent(action_space=spaces.MultiDiscrete([3] * size))),
}


def measure(name: str, size: int, seconds: float) -> dict[str, float]:
    """In this process: milliseconds of CPU time per iteration, and the peak of memory in MB."""
    th.set_num_threads(1)
    iteration = iteration_of(GROWTHS[name].agent(size), warm_up=2)
    times: list[float] = []
    while len(times) < LEAST or sum(times) < seconds:
        start = time.process_time()
        iteration()
        times.append(time.process_time() - start)
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    return {"milliseconds": round(1e3 * float(np.median(times)), 3), "mb": round(peak, 1)}


def in_a_process_of_its_own(name: str, size: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "scripts.bench.growth", "--one", name, str(size), "--seconds", str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def steepest_power(sizes: list[int], values: list[float]) -> float:
    """The largest slope between neighbours, of log value against log size."""
    return float(np.max(np.diff(np.log(values)) / np.diff(np.log(sizes))))


def draw(rows: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Time and memory against the size, both axes logarithmic, all relative to the smallest size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("milliseconds", "mb"), strict=True):
        for name, of_size in rows.items():
            sizes, values = np.array([*map(int, of_size)]), np.array([row[quantity] for row in of_size.values()])
            axes.loglog(sizes / sizes[0], values / values[0], "o-", label=name)
        ends = np.array(axes.get_xlim())
        axes.loglog(ends, ends, ":", color="grey", label="linear")
        axes.set(xlabel="size ÷ the smallest", ylabel=f"{quantity} ÷ the smallest size's")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(GROWTHS), help="only this (may be repeated)")
    parser.add_argument("--largest", type=int, help="no larger sizes than this")
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU time of each size, at least")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    add_output(parser, "growth.json and growth.png")
    arguments = parser.parse_args()
    if arguments.one:
        name, size = arguments.one
        print(json.dumps(measure(name, int(size), arguments.seconds)))
        return
    path = arguments.output / "growth.json"
    rows = read_record(path)["rows"] if path.exists() else {}
    todo = [
        (name, size)
        for name in arguments.only or GROWTHS
        for size in GROWTHS[name].sizes
        if str(size) not in rows.get(name, {}) and size <= (arguments.largest or size)
    ]
    for name, size in track(todo, description="sizes"):
        rows.setdefault(name, {})[str(size)] = in_a_process_of_its_own(name, size, arguments.seconds)
        write_record(path, {"rows": rows, "n_envs": N_ENVS, "threads": 1, **provenance()})
    draw(rows, arguments.output / "growth.png")
    table = Table("what grows", "sizes", "ms per iteration", "peak MB", "steepest power of time", "of memory")
    for name, of_size in rows.items():
        sizes = [*map(int, of_size)]
        times, peaks = ([row[quantity] for row in of_size.values()] for quantity in ("milliseconds", "mb"))
        powers = [f"{steepest_power(sizes, values):.2f}" if len(sizes) > 1 else "—" for values in (times, peaks)]
        table.add_row(name, *(", ".join(f"{x:g}" for x in column) for column in (sizes, times, peaks)), *powers)
    Console().print(table)


if __name__ == "__main__":
    main()
