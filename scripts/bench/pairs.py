"""What an iteration takes beside that of another agent: under masks, with a memory, by natural gradients, on images.

    python -m scripts.bench.pairs [--repeats 25] [--only "masked bits"] [--output results]

An iteration is a rollout and one update. Two agents take turns in one process, on one thread, in environments that do
nothing. What is measured is the process's CPU time; written down are the medians over the turns, and the median of the
ratios within a turn. A case that is measured again replaces the record's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C

from sb3_relax import (
    RELAXA2C,
    MaskableRecurrentRELAXA2C,
    MaskableRELAXA2C,
    RecurrentRELAXA2C,
)
from scripts.bench.algorithms import N_ENVS
from scripts.bench.floor import iteration_of
from scripts.bench.idle import idle
from scripts.records import add_output, provenance, read_record, write_record

#: CPU time of a turn, in seconds, at least
TURN = 0.1
BITS, WIDE, DISCRETE = spaces.MultiBinary(339), spaces.MultiDiscrete([20] * 100), spaces.Discrete(6)
IMAGES = spaces.Box(0, 255, (4, 84, 84), np.uint8)


class Pair(NamedTuple):
    """Two agents, and how much longer than the second's an iteration of the first's may take."""

    ours: Callable[[], Any]
    other: Callable[[], Any]
    at_most: float


def agent(kind: Any, action_space: spaces.Space, n_steps: int, policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    env = idle(N_ENVS, action_space, kwargs.pop("observation_space", None))
    return kind(policy, env, n_steps=n_steps, seed=0, device="cpu", **kwargs)


def ppo(kind: Any, action_space: spaces.Space, n_steps: int, policy: str = "MlpPolicy") -> Any:
    """One epoch of one batch: as many updates as ours."""
    return agent(kind, action_space, n_steps, policy, n_epochs=1, batch_size=n_steps * N_ENVS)


PAIRS = {
    "masked bits ÷ not masked": Pair(lambda: agent(MaskableRELAXA2C, BITS, 5), lambda: agent(RELAXA2C, BITS, 5), 1.2),
    "masked variables ÷ not masked": Pair(
        lambda: agent(MaskableRELAXA2C, WIDE, 5), lambda: agent(RELAXA2C, WIDE, 5), 1.2
    ),
    "MultiDiscrete ÷ A2C": Pair(lambda: agent(RELAXA2C, WIDE, 5), lambda: agent(A2C, WIDE, 5), 1.0),
    "masked ÷ MaskablePPO": Pair(
        lambda: agent(MaskableRELAXA2C, DISCRETE, 32), lambda: ppo(MaskablePPO, DISCRETE, 32), 1.0
    ),
    "masked bits ÷ MaskablePPO": Pair(
        lambda: agent(MaskableRELAXA2C, BITS, 32), lambda: ppo(MaskablePPO, BITS, 32), 1.0
    ),
    "recurrent ÷ RecurrentPPO": Pair(
        lambda: agent(RecurrentRELAXA2C, DISCRETE, 32, "MlpLstmPolicy"),
        lambda: ppo(RecurrentPPO, DISCRETE, 32, "MlpLstmPolicy"),
        1.0,
    ),
    "masked and recurrent ÷ RecurrentPPO": Pair(
        lambda: agent(MaskableRecurrentRELAXA2C, DISCRETE, 32, "MlpLstmPolicy"),
        lambda: ppo(RecurrentPPO, DISCRETE, 32, "MlpLstmPolicy"),
        1.0,
    ),
    "natural gradient ÷ plain": Pair(
        lambda: agent(RELAXA2C, DISCRETE, 64, update_rule="kfac"), lambda: agent(RELAXA2C, DISCRETE, 64), 1.25
    ),
    "CnnPolicy ÷ A2C": Pair(
        lambda: agent(RELAXA2C, DISCRETE, 5, "CnnPolicy", observation_space=IMAGES),
        lambda: agent(A2C, DISCRETE, 5, "CnnPolicy", observation_space=IMAGES),
        1 / 0.95,
    ),
}


def milliseconds_of_turn(iteration: Callable[[], None]) -> float:
    """Per iteration."""
    start, count = time.process_time(), 0
    while count == 0 or time.process_time() - start < TURN:
        iteration()
        count += 1
    return 1e3 * (time.process_time() - start) / count


def measure(pair: Pair, repeats: int) -> dict[str, Any]:
    """One row."""
    iterations = [iteration_of(make()) for make in (pair.ours, pair.other)]
    times = np.array([[milliseconds_of_turn(iteration) for iteration in iterations] for _ in range(repeats)])
    ours, other = np.median(times, axis=0)
    return {
        "milliseconds": [round(float(ours), 3), round(float(other), 3)],
        "ratio": round(float(np.median(times[:, 0] / times[:, 1])), 3),
        "at_most": pair.at_most,
        "repeats": repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--only", action="append", help="cases whose names begin so (may be repeated)")
    add_output(parser, "pairs.json")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    path = arguments.output / "pairs.json"
    rows = read_record(path)["rows"] if path.exists() else {}
    names = [name for name in PAIRS if arguments.only is None or name.startswith(tuple(arguments.only))]
    if not names:
        parser.error(f"--only must be the beginning of one of {', '.join(PAIRS)}")
    for name in track(names, description="pairs"):
        rows[name] = measure(PAIRS[name], arguments.repeats)
        write_record(path, {"rows": rows, "n_envs": N_ENVS, "threads": 1, **provenance()})
    table = Table("pair", "ms per iteration", "the other's", "ratio", "asked")
    for name, row in rows.items():
        ours, other = row["milliseconds"]
        table.add_row(name, f"{ours:.2f}", f"{other:.2f}", f"{row['ratio']:.2f}", f"≤ {row['at_most']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
