"""Memory of a long training: RELAXA2C on 64 environments, which should take no more at its end than at its beginning.

    python -m scripts.attacks.memory                       # 5,000,000 steps of CartPole-v1
    python -m scripts.attacks.memory --timesteps 640000

The record, with the memory of the process (resident set) after every hundredth of the steps, goes to
results/memory.json of the folder that this is run in, or of ``--output``.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_relax import RELAXA2C
from scripts.records import add_output, provenance, write_record

#: measurements
POINTS = 100
#: of which the first ones are left out: buffers, caches and the allocator's pools have been filled by then
BEFORE = 20


class MemoryCurve(BaseCallback):
    """Resident memory of the process, in MiB, by the number of steps.

    :param every: so many steps
    """

    def __init__(self, every: int):
        super().__init__()
        self.every = every
        self.points: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.every * (len(self.points) + 1):
            self.points.append((self.num_timesteps, resident()))
        return True


def resident() -> float:
    """Memory of this process that is in use now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth(points: list[tuple[int, float]]) -> float:
    """The slope of a straight line through the measurements, in MiB a million steps."""
    steps, memory = np.array(points).T
    return float(np.polyfit(steps / 1e6, memory, 1)[0])


def measured(timesteps: int, n_envs: int, env: str = "CartPole-v1") -> dict[str, Any]:
    """The record of a training."""
    th.set_num_threads(1)
    model = RELAXA2C("MlpPolicy", make_vec_env(env, n_envs, seed=0), seed=0, device="cpu")
    curve, start = MemoryCurve(timesteps // POINTS), time.process_time()
    model.learn(timesteps, callback=curve)
    late = curve.points[BEFORE:]
    return {
        "env": env,
        "n_envs": n_envs,
        "timesteps": model.num_timesteps,
        "updates": model._n_updates,
        "mib": [[step, round(memory, 2)] for step, memory in curve.points],
        "growth_mib_per_million_steps": growth(late),
        "range_mib": max(memory for _, memory in late) - min(memory for _, memory in late),
        "cpu_seconds": round(time.process_time() - start, 1),
        **provenance(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=5_000_000)
    parser.add_argument("--n-envs", type=int, default=64)
    add_output(parser, "memory.json")
    arguments = parser.parse_args()
    record = measured(arguments.timesteps, arguments.n_envs)
    write_record(arguments.output / "memory.json", record)
    print(
        f"{record['timesteps']:,} steps, {record['updates']:,} updates: {record['mib'][0][1]:.0f} MiB at first, "
        f"{record['mib'][-1][1]:.0f} MiB at last, {record['growth_mib_per_million_steps']:+.2f} MiB a million steps"
    )


if __name__ == "__main__":
    main()
