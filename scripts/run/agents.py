"""The agents of agents/: trained by the command line with zoo_hyperparams/, scored, stripped to what enjoy needs.

    python -m scripts.run.agents --output .                        # those that are not there yet
    python -m scripts.run.agents --output . --env LunarLander-v3

Each is the last model of one run (not the best of its evaluations), scored afterwards on 100 episodes with
deterministic actions. Seeds are fixed below.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_relax import LAXA2C, RELAXA2C
from scripts.records import ROOT, add_output, provenance, write_record

CLASSES = {"laxa2c": LAXA2C, "relaxa2c": RELAXA2C}
#: environment → algorithm and training seed
AGENTS = {
    "CartPole-v1": ("relaxa2c", 0),
    "LunarLander-v3": ("relaxa2c", 20),
    "InvertedPendulum-v5": ("laxa2c", 0),
    "Pendulum-v1": ("laxa2c", 0),
    "HalfCheetah-v5": ("laxa2c", 20),
}
EVALUATION_SEED = 10_000
EPISODES = 100


def score(algorithm: str, env_id: str, folder: Path) -> dict[str, float]:
    """Mean and standard deviation of the return over episodes that training has not seen."""
    env = make_vec_env(env_id, n_envs=8, seed=EVALUATION_SEED)
    statistics = folder / env_id / "vecnormalize.pkl"
    if statistics.exists():
        env = VecNormalize.load(str(statistics), env)
        env.training = env.norm_reward = False
    model = CLASSES[algorithm].load(folder / f"{env_id}.zip", device="cpu")
    returns, _ = evaluate_policy(model, env, n_eval_episodes=EPISODES, return_episode_rewards=True)
    return {"mean": round(float(np.mean(returns)), 2), "std": round(float(np.std(returns)), 2), "episodes": EPISODES}


def train(env_id: str, agents: Path) -> None:
    """One agent: ``agents/<algorithm>/<environment>_1`` as rl-zoo lays it out, without logs."""
    algorithm, seed = AGENTS[env_id]
    command = ["train", "--algo", algorithm, "--env", env_id, "--seed", str(seed), "--device", "cpu"]
    command += ["--num-threads", "1", "--eval-freq", "-1", "-f", "agents"]
    with tempfile.TemporaryDirectory() as work:
        start = time.perf_counter()
        # from the folder itself, so that no path of this machine is saved with the agent
        subprocess.run(
            [sys.executable, "-m", "sb3_relax.zoo", *command],
            check=True,
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - start
        trained = Path(work) / "agents" / algorithm / f"{env_id}_1"
        for log in trained.glob("*.csv"):
            log.unlink()
        (trained / env_id / "command.txt").write_text(f"sb3-relax {' '.join(command)}\n")
        target = agents / algorithm / trained.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(trained, target)
    record = {
        "env": env_id,
        "algorithm": algorithm,
        "seed": seed,
        "score": score(algorithm, env_id, target),
        "evaluation_seed": EVALUATION_SEED,
        "timesteps": CLASSES[algorithm].load(target / f"{env_id}.zip", device="cpu").num_timesteps,
        "seconds": round(seconds, 1),
        **provenance(),
    }
    write_record(target / "score.json", record)
    print(json.dumps({key: record[key] for key in ("env", "algorithm", "score", "timesteps", "seconds")}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", choices=AGENTS, help="only this one, anew (may be repeated)")
    add_output(parser, "agents/<algorithm>/<environment>_1")
    arguments = parser.parse_args()
    for env_id, (algorithm, _) in AGENTS.items():
        done = ((arguments.output / "agents") / algorithm / f"{env_id}_1" / "score.json").exists()
        if env_id in (arguments.env or []) or (arguments.env is None and not done):
            train(env_id, (arguments.output / "agents"))


if __name__ == "__main__":
    main()
