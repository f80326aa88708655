"""Seconds that a step of training takes: every algorithm of every task of a protocol of scripts.run.rl.

    python -m scripts.bench.pace                                     # all of scripts/protocols/benchmark.yml
    python -m scripts.bench.pace --env CartPole-v1 --repeats 5       # one task

The algorithms of a task learn in turns in one process on one thread, each for whole rollouts, so that a noisy machine
disturbs all alike. Nothing else may run on the machine: what others compute makes every step slower, CPU time included.
Tasks that are measured again replace those of the record, which is <protocol>_pace.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch as th
import yaml
from rich.progress import track
from stable_baselines3.common.base_class import BaseAlgorithm

from scripts.records import ROOT, add_output, provenance, read_record, write_record
from scripts.run.rl import built
from scripts.run.sweep import asked_for

#: steps that a turn has at least
STEPS = 8_000


def seconds_per_step(model: BaseAlgorithm, steps: int) -> float:
    """Of one turn, which ends with a whole rollout and its update."""
    before = model.num_timesteps
    start = time.perf_counter()
    model.learn(steps, reset_num_timesteps=False)
    return (time.perf_counter() - start) / (model.num_timesteps - before)


def paces(env_id: str, task: dict[str, Any], repeats: int) -> dict[str, list[float]]:
    """Algorithm → seconds per step, one figure per turn."""
    models = {name: built(env_id, entry, seed=0)[0] for name, entry in task["algorithms"].items()}
    for model in models.values():
        model.learn(1)  # one rollout: what is only done once
    found: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            found[name].append(seconds_per_step(model, STEPS))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", type=Path, default=ROOT / "scripts" / "protocols" / "benchmark.yml")
    parser.add_argument("--env", action="append", help="only this environment (may be repeated)")
    parser.add_argument("--repeats", type=int, default=3)
    add_output(parser, "<protocol>_pace.json")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    tasks = asked_for(parser, arguments, yaml.safe_load(arguments.protocol.read_text()))
    path = arguments.output / f"{arguments.protocol.stem}_pace.json"
    found = read_record(path)["seconds_per_step"] if path.exists() else {}
    for env_id, task in track(tasks.items(), description="tasks"):
        found[env_id] = paces(env_id, task, arguments.repeats)
        write_record(path, {"seconds_per_step": found, "threads": 1, **provenance()})


if __name__ == "__main__":
    main()
