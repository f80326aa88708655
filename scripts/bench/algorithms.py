"""Cost against SB3's A2C: steps per second of whole learn() calls, peak memory, and what importing the core imports.

    python -m scripts.bench.algorithms [--repeats 25] [--output results]

Both algorithms learn in turns in one process on one thread, and every ratio compares neighbours in time, so that a
noisy machine disturbs both alike. Memory is the peak of a fresh process per algorithm.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env

from sb3_relax import LAXA2C, RELAXA2C
from scripts.records import ROOT, add_output, provenance, write_record

N_ENVS = 8
CASES: dict[str, tuple[str, type[A2C], dict[str, Any]]] = {
    "RELAXA2C": ("CartPole-v1", RELAXA2C, {}),
    "RELAXA2C correction='exact'": ("CartPole-v1", RELAXA2C, {"correction": "exact"}),
    "LAXA2C": ("Pendulum-v1", LAXA2C, {}),
}
#: n_steps → the least ratio asked for
TARGETS = {5: 0.85, 32: 0.95}
MEMORY_TARGET = 1.10


def build(algorithm: type[A2C], env_id: str, n_steps: int, **kwargs: Any) -> A2C:
    return algorithm("MlpPolicy", make_vec_env(env_id, N_ENVS, seed=0), n_steps=n_steps, seed=0, device="cpu", **kwargs)


def seconds_of_learn(model: A2C, updates: int) -> float:
    start = time.perf_counter()
    model.learn(updates * model.n_steps * N_ENVS)
    return time.perf_counter() - start


def speed_ratios(env_id: str, algorithm: type[A2C], kwargs: dict[str, Any], n_steps: int, repeats: int) -> list[float]:
    """Our steps per second over A2C's, one ratio per repeat."""
    reference = build(A2C, env_id, n_steps)
    ours = build(algorithm, env_id, n_steps, **kwargs)
    updates = 1000 // n_steps
    for model in (reference, ours):
        seconds_of_learn(model, 20)
    ratios = []
    for _ in range(repeats):
        # A2C before and after: a drift of the machine cancels
        before, mine, after = (seconds_of_learn(model, updates) for model in (reference, ours, reference))
        ratios.append((before + after) / 2 / mine)
    return ratios


def peak_memory(name: str) -> float:
    """Peak resident memory in MB of a fresh process that learns with the case (or with SB3's A2C)."""
    command = [sys.executable, "-m", "scripts.bench.algorithms", "--memory-of", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure_memory(name: str) -> None:
    th.set_num_threads(1)
    reference, _, case = name.partition(":")
    env_id, algorithm, kwargs = CASES[case]
    model = build(A2C, env_id, 32) if reference == "A2C" else build(algorithm, env_id, 32, **kwargs)
    seconds_of_learn(model, 30)
    # not getrusage's ru_maxrss: that one survives exec, and would give the size of the process that started this one
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def core_imports_sb3() -> bool:
    code = "import sys, sb3_relax.estimators; print('stable_baselines3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip() == "True"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    add_output(parser, "bench.json")
    parser.add_argument("--only-memory", action="store_true", help="measure memory again, in the record that is there")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        measure_memory(arguments.memory_of)
        return

    path = arguments.output / "bench.json"
    th.set_num_threads(1)
    speed = []
    pairs = [] if arguments.only_memory else [(name, n) for name in CASES for n in TARGETS]
    for name, n_steps in track(pairs, description="speed"):
        env_id, algorithm, kwargs = CASES[name]
        ratios = speed_ratios(env_id, algorithm, kwargs, n_steps, arguments.repeats)
        low, high = stats.bootstrap((ratios,), np.median, method="percentile", rng=0).confidence_interval
        speed.append(
            {
                "case": name,
                "env": env_id,
                "n_steps": n_steps,
                "ratio": float(np.median(ratios)),
                "interval": [float(low), float(high)],
                "target": TARGETS[n_steps],
                "ratios": [round(ratio, 4) for ratio in ratios],
            }
        )
    memory = []
    for name in track(CASES, description="memory"):
        # the least of three: the peak of a process is never less than what it needs
        reference, ours = (min(peak_memory(f"{who}:{name}") for _ in range(3)) for who in ("A2C", "ours"))
        memory.append(
            {"case": name, "a2c_mb": reference, "mb": ours, "ratio": ours / reference, "target": MEMORY_TARGET}
        )
    old = json.loads(path.read_text()) if arguments.only_memory else None
    speed = old["speed"] if old else speed
    record = {
        "speed": speed,
        "speed_provenance": old.get("speed_provenance", {k: old[k] for k in ("commit", "argv")}) if old else None,
        "memory": memory,
        "core_imports_sb3": core_imports_sb3(),
        "n_envs": N_ENVS,
        "threads": 1,
        **provenance(),
    }
    write_record(path, record)

    table = Table(
        "case", "environment", "n_steps", "steps/s ÷ A2C's (median, 95% interval)", "asked", "peak memory ÷ A2C's"
    )
    for row in speed:
        of_memory = next(m for m in memory if m["case"] == row["case"])
        low, high = row["interval"]
        table.add_row(
            row["case"],
            row["env"],
            str(row["n_steps"]),
            f"{row['ratio']:.3f} [{low:.3f}, {high:.3f}]",
            f">= {row['target']}",
            f"{of_memory['ratio']:.3f} (asked <= {MEMORY_TARGET})",
        )
    console = Console()
    console.print(table)
    console.print(f"sb3_relax.estimators imports SB3: {json.dumps(record['core_imports_sb3'])}")


if __name__ == "__main__":
    main()
