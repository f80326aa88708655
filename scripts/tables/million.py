"""The table of a million steps on MuJoCo's tasks, beside the scores that rl-zoo has."""

from __future__ import annotations

import numpy as np

from scripts.tables.learning import grouped, interval

#: environment → scores of A2C and PPO after a million steps on its v3 version, one agent each, as
#: https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/benchmark.md has them
RL_ZOO = {
    "HalfCheetah-v5": ("3,041", "5,819"),
    "Hopper-v5": ("733", "2,410"),
    "Walker2d-v5": ("—", "3,479"),
    "Swimmer-v5": ("201", "282"),
}


def million_table(folder: str = "million") -> str:
    """Each seed's hundred episodes after training, with deterministic actions."""
    rows = [
        "| task | ours | seeds | mean of 100 episodes after training | rl-zoo's A2C | rl-zoo's PPO |",
        "|---|---|---|---|---|---|",
    ]
    for env, algorithms in grouped(folder).items():
        a2c, ppo = RL_ZOO[env]
        for algorithm, records in algorithms.items():
            scores = [float(np.mean(record["evaluation"])) for record in records]
            each = ", ".join(f"{score:,.0f}" for score in scores)
            name = algorithm.replace("fast", '`preset="fast"`')
            rows.append(f"| {env} | {name} | {len(scores)} | {interval(scores)} ({each}) | {a2c} | {ppo} |")
    return "\n".join(rows)
