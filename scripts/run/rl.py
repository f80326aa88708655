"""Learning runs: algorithm × environment × seed from a protocol file, one record per run.

    python -m scripts.run.rl                                # all of scripts/protocols/learning.yml
    python -m scripts.run.rl --env CartPole-v1 --jobs 2     # one environment
    python -m scripts.run.rl --algorithm relaxa2c           # one algorithm

Records go to results/<protocol> in the folder that this is run in, or in that of ``--output``. A run that has a record
there is skipped, so a killed sweep continues where it stopped. A failed run is reported at the end and does not take
the others with it. Where a protocol has ``until_solved: true``, runs stop at the threshold. Where it has
``mean_of: N``, as for episodes of a single step, N in a row are kept as one with their mean return.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import rl_zoo3
import torch as th
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_relax import LAXA2C, RELAXA2C, RecurrentLAXA2C, RecurrentRELAXA2C
from sb3_relax.environments import make_undrawn_vec_env
from sb3_relax.zoo.settings import read_yaml
from scripts.records import ROOT, Records, add_output, file_name, provenance
from scripts.run.entries import model_arguments, wrapper_of
from scripts.run.recorder import Recorder
from scripts.run.sweep import BACKENDS, asked_for, in_parallel, run_command

#: by the name of their file in zoo_hyperparams (rl-zoo calls RecurrentPPO ppo_lstm)
CLASSES = {
    "laxa2c": LAXA2C,
    "relaxa2c": RELAXA2C,
    "laxa2c_lstm": RecurrentLAXA2C,
    "relaxa2c_lstm": RecurrentRELAXA2C,
    "a2c": A2C,
    "ppo": PPO,
    "trpo": TRPO,
}
#: where those files are: ours, else rl-zoo's own (for what users would pick instead, as rl-zoo has tuned it)
OWN_ZOO, RL_ZOO = ROOT / "zoo_hyperparams", Path(rl_zoo3.__file__).parent / "hyperparams"
#: steps of an episode in the evaluation, at most: likeliest actions can stay alive for ever where an environment has no
#: limit of its own, as on MinAtar/Seaquest-v1. Atari's games have as many, 108,000 frames of which four make a step
LONGEST_EPISODE = 27_000


def hyperparams_of(env_id: str, entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of the algorithm and its values, as a protocol's entry gives them.

    ``zoo: NAME``
        the values of our zoo file of that name, else of rl-zoo's, and in their place what else the entry has
    ``rl_zoo: NAME``
        the same of rl-zoo's own file, which need not have this version of the environment, nor the environment
    ``algorithm: NAME``
        only what else the entry has
    """
    overrides = dict(entry)
    if "algorithm" in overrides:
        return overrides.pop("algorithm"), overrides
    if "rl_zoo" in overrides:
        name = overrides.pop("rl_zoo")
        return name, {**values_in(RL_ZOO / f"{name}.yml", env_id, or_similar=True), **overrides}
    name = overrides.pop("zoo")
    file = next(path for folder in (OWN_ZOO, RL_ZOO) if (path := folder / f"{name}.yml").exists())
    return name, {**values_in(file, env_id), **overrides}


def values_in(file: Path, env_id: str, or_similar: bool = False) -> dict[str, Any]:
    """A zoo file's values for an environment.

    :param or_similar: where it has none, those for another version of the environment, else its default ones
    """
    entries = read_yaml(file)
    name, version, _ = env_id.rpartition("-v")
    others = [other for other in entries if version and other.rpartition("-v")[0] == name]
    for key in (env_id, *reversed(others), "default") if or_similar else (env_id,):
        if key in entries:
            return entries[key]
    raise KeyError(f"{file.name} has no entry for {env_id}; it has {', '.join(entries)}")


def normalized(hyperparams: dict[str, Any]) -> bool:
    """Whether VecNormalize is asked for; rl-zoo's entries may also give it arguments, which no protocol here uses."""
    value = hyperparams.get("normalize", False)
    if not isinstance(value, bool):
        raise ValueError(f"normalize must be true or false; got {value!r}")
    return value


def made(env_id: str, hyperparams: dict[str, Any], n_envs: int, seed: int, limit: int | None = None) -> VecEnv:
    """Environments as an entry asks for them, but for VecNormalize.

    :param limit: steps of an episode, at most, where the environment has no limit of its own
    """
    import scripts.run.environments  # noqa: F401  registers them, in this process

    if gym.spec(env_id).max_episode_steps is not None:
        limit = None
    return make_undrawn_vec_env(env_id, n_envs, seed, wrapper_of(hyperparams), max_episode_steps=limit)


def built(env_id: str, entry: dict[str, Any], seed: int) -> tuple[BaseAlgorithm, dict[str, Any]]:
    """An algorithm on its environments as a protocol's entry asks for it, and all its hyper-parameters."""
    zoo, hyperparams = hyperparams_of(env_id, entry)
    env = made(env_id, hyperparams, hyperparams.get("n_envs", 1), seed)
    if normalized(hyperparams):
        env = VecNormalize(env, gamma=hyperparams.get("gamma", 0.99))
    model = CLASSES[zoo](hyperparams["policy"], env, seed=seed, device="cpu", **model_arguments(hyperparams))
    return model, hyperparams


def trained(
    env_id: str, entry: dict[str, Any], seed: int, task: dict[str, Any]
) -> tuple[BaseAlgorithm, dict[str, Any], Recorder, float]:
    """An entry's algorithm after its ``n_timesteps``; its hyper-parameters, what it went through, and the seconds.

    :param task: ``threshold``, and where they are given ``until_solved`` and ``mean_of``, as :class:`Recorder` has them
    :raises RuntimeError: where fewer than ``mean_of`` episodes ended
    """
    th.set_num_threads(1)
    model, hyperparams = built(env_id, entry, seed)
    recorder = Recorder(task["threshold"], task.get("until_solved", False), mean_of=task.get("mean_of", 1))
    start = time.perf_counter()
    model.learn(int(hyperparams["n_timesteps"]), callback=recorder)
    if recorder.waiting and not recorder.returns:
        raise RuntimeError(
            f"{len(recorder.waiting)} episodes of {env_id} ended in {hyperparams['n_timesteps']} steps, and mean_of "
            f"asks for {recorder.mean_of}; give a run more steps, or mean_of fewer episodes"
        )
    return model, hyperparams, recorder, time.perf_counter() - start


def run_name(env_id: str, name: str, seed: int) -> str:
    """Of a run's record."""
    return file_name(f"{env_id}_{name}_{seed:04d}")


def run(env_id: str, name: str, task: dict[str, Any], seed: int, records: Records) -> None:
    """One run and its record; of several sweeps in one folder, one has the run, and the others find its record."""
    with records.claim(run_name(env_id, name, seed)):
        if records.get(run_name(env_id, name, seed)) is None:
            _run(env_id, name, task, seed, records)


def _run(env_id: str, name: str, task: dict[str, Any], seed: int, records: Records) -> None:
    model, hyperparams, recorder, seconds = trained(env_id, task["algorithms"][name], seed, task)
    eval_env = made(env_id, hyperparams, n_envs=8, seed=10_000 + seed, limit=LONGEST_EPISODE)
    statistics = model.get_vec_normalize_env()
    if statistics is not None:
        eval_env = VecNormalize(eval_env, training=False, norm_reward=False)
        eval_env.obs_rms = statistics.obs_rms
    scores, _ = evaluate_policy(model, eval_env, n_eval_episodes=100, return_episode_rewards=True)
    kept = recorder.variances[:: max(1, len(recorder.variances) // 200)]
    at = {step for step, _, _ in kept}
    records.write(
        run_name(env_id, name, seed),
        {
            "env": env_id,
            "algorithm": name,
            "seed": seed,
            "threshold": recorder.threshold,
            "until_solved": recorder.until_solved,
            "mean_of": recorder.mean_of,
            "hyperparams": hyperparams,
            "timesteps": model.num_timesteps,
            "updates": model._n_updates,
            "seconds": round(seconds, 2),
            "solved_at": recorder.solved_at,
            "final_training_mean": round(float(np.mean(recorder.returns[-100:])), 3),
            "evaluation": [round(float(score), 2) for score in scores],
            "episode_returns": recorder.returns,
            "episode_steps": recorder.steps,
            "variances": [[t, float(f"{a:.4g}"), float(f"{b:.4g}")] for t, a, b in kept],
            "trajectory_ratios": [[t, float(f"{x:.4g}")] for t, x in recorder.trajectory_ratios if t in at],
            **provenance(),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", type=Path, default=ROOT / "scripts" / "protocols" / "learning.yml")
    parser.add_argument("--env", action="append", help="only this environment (may be repeated)")
    parser.add_argument("--algorithm", action="append", help="only this algorithm of the protocol (may be repeated)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one core each")
    parser.add_argument("--backend", choices=BACKENDS, default="loky", help="of joblib: ray and dask for clusters")
    add_output(parser, "<protocol>/runs.jsonl and what belongs to it")
    arguments = parser.parse_args()
    protocol = read_yaml(arguments.protocol)
    records = Records(arguments.output / arguments.protocol.stem)

    tasks = asked_for(parser, arguments, protocol)
    known = list(dict.fromkeys(name for task in tasks.values() for name in task["algorithms"]))
    algorithms = arguments.algorithm or known
    if unknown := sorted(set(algorithms) - set(known)):
        parser.error(f"{', '.join(unknown)}: of {', '.join(tasks)}, {arguments.protocol.name} has {', '.join(known)}")
    cells = [
        [run_name(env_id, name, seed) for seed in task["seeds"]]
        for env_id, task in tasks.items()
        for name in task["algorithms"]
    ]
    records.pack_complete(cells)  # what a killed sweep left
    done = records.names()
    jobs = {
        run_name(env_id, name, seed): (env_id, name, task, seed, records)
        for env_id, task in tasks.items()
        for seed in task["seeds"]
        for name in task["algorithms"]
        if name in algorithms and run_name(env_id, name, seed) not in done
    }

    def pack() -> None:
        records.pack_complete(cells)

    failures = in_parallel(run, jobs, arguments.jobs, "runs", arguments.backend, after_each=pack)
    if failures:
        raise SystemExit(f"{len(failures)} of {len(jobs)} runs failed")


if __name__ == "__main__":
    run_command(main)
