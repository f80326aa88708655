"""RELAXA2C with ``preset="fast"`` learns CartPole-v1 to the environment's own threshold, in seconds.

    python -m scripts.run.demo [--seed 0] [--output demo]

Writes the agent, its evaluation, a learning curve and tensorboard logs. Ctrl-C keeps what was learned so far.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import gymnasium as gym
import matplotlib
import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_relax import RELAXA2C
from sb3_relax.tasks.intervals import half_width, plus_minus
from scripts.records import provenance, write_record
from scripts.run.recorder import Recorder

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ENV = "CartPole-v1"
BUDGET, ATTEMPTS = 50_000, 3
N_ENVS = 8
#: episodes whose mean has to be at the threshold
WINDOW = 10


def draw(recorder: Recorder, threshold: float, path: Path) -> None:
    """Return, and the policy gradient's variance with and without the control variate, against steps."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained")
    steps, returns = np.array(recorder.steps), np.array(recorder.returns)
    mean = [returns[max(0, i + 1 - WINDOW) : i + 1].mean() for i in range(len(returns))]
    top.plot(steps, returns, ".", markersize=3, alpha=0.3, color="C0", label="episode")
    top.plot(steps, mean, color="C0", label=f"mean of the last {WINDOW}")
    top.axhline(threshold, color="k", linewidth=0.8, linestyle="--", label=f"threshold ({threshold:g})")
    top.set(ylabel="return", title=f"RELAXA2C on {ENV}")
    top.legend(loc="lower right")

    at, with_cv, without = map(np.array, zip(*recorder.variances, strict=True))
    width = min(10, len(at))
    window = np.ones(width) / width
    for values, label, colour in ((without, "without", "C3"), (with_cv, "with", "C0")):
        bottom.plot(at, values, alpha=0.25, color=colour, linewidth=0.8)
        smooth = np.exp(np.convolve(np.log(np.maximum(values, 1e-12)), window, "valid"))
        bottom.plot(at[len(at) - len(smooth) :], smooth, color=colour, label=f"{label} the control variate")
    bottom.set(xlabel="environment steps", ylabel="variance of the policy gradient\n(per step, at the logits)")
    bottom.set_yscale("log")
    bottom.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder; default: %(default)s")
    parser.add_argument(
        "--timesteps", type=int, default=BUDGET, help=f"granted up to {ATTEMPTS} times; default: %(default)s"
    )
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    th.set_num_threads(1)  # the networks are too small to share
    threshold = gym.spec(ENV).reward_threshold
    assert threshold is not None
    model = RELAXA2C(
        "MlpPolicy",
        make_vec_env(ENV, n_envs=N_ENVS, seed=arguments.seed),
        preset="fast",
        seed=arguments.seed,
        tensorboard_log=str(output / "tensorboard"),
        device="cpu",
    )
    recorder = Recorder(threshold, until_solved=True, window=WINDOW)
    start = time.perf_counter()
    try:
        for attempt in range(ATTEMPTS):
            model.learn(
                arguments.timesteps,
                callback=recorder,
                log_interval=5,
                reset_num_timesteps=attempt == 0,
                progress_bar=True,
            )
            if recorder.solved_at is not None:
                break
    except KeyboardInterrupt:
        print("stopped; keeping what was learned so far")
    seconds = time.perf_counter() - start

    agent = output / "relaxa2c_cartpole.zip"
    model.save(agent)
    eval_env = make_vec_env(ENV, n_envs=N_ENVS, seed=10_000 + arguments.seed)
    scores, _ = evaluate_policy(model, eval_env, n_eval_episodes=100, return_episode_rewards=True)
    mean = float(np.mean(scores))
    reached = mean >= threshold
    write_record(
        output / "evaluation.json",
        {
            "env": ENV,
            "seed": arguments.seed,
            "steps": model.num_timesteps,
            "seconds": round(seconds, 1),
            "solved_at": recorder.solved_at,
            "evaluation": scores,
            **provenance(),
        },
    )
    curve = output / "learning_curve.png"
    if recorder.variances and recorder.returns:
        draw(recorder, threshold, curve)

    print(
        f"\n{ENV}: {plus_minus(mean, half_width(scores), '.1f')} (mean over 100 evaluation episodes, 95% interval) "
        f"after {model.num_timesteps:,} steps in {seconds:.0f} s; "
        f"threshold {threshold:g} {'reached' if reached else 'NOT reached'}"
    )
    print(f"learning curve   {curve}")
    print(f"agent            {agent}")
    print(f'                 from sb3_relax import RELAXA2C; model = RELAXA2C.load("{agent}")')
    print(f"tensorboard      {Path(sys.executable).parent / 'tensorboard'} --logdir {output / 'tensorboard'}")
    if not reached:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
