"""The command: an agent given or trained briefly, its diagnosis printed, saved and drawn."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.common.extras import require_extra
from sb3_relax.common.frozen import algorithm_of
from sb3_relax.diagnose.measure import diagnose
from sb3_relax.tasks.records import provenance, write_record

ALGORITHMS: dict[str, type[OnPolicyAlgorithm]] = {"laxa2c": LAXA2C, "relaxa2c": RELAXA2C, "a2c": A2C, "ppo": PPO}

DESCRIPTION = """\
Where does the variance of the policy gradient come from in this environment, and can LAX or RELAX lower it?

Measured at a frozen policy: a given agent's (--agent), or one trained briefly. Prints a table and one sentence."""


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command's arguments. Sizes without a value here are :func:`~sb3_relax.diagnose.diagnose`'s defaults."""
    command = argparse.ArgumentParser(
        prog=prog, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("--env", required=True, help="id of a registered environment")
    command.add_argument(
        "--gym-packages", nargs="+", default=[], help="packages to import, which register environments"
    )
    command.add_argument("--agent", type=Path, help="zip of an agent; without, one is trained briefly")
    command.add_argument("--algo", choices=ALGORITHMS, help="the agent's algorithm (default: by the action space)")
    command.add_argument("--vecnormalize", type=Path, help="vecnormalize.pkl the agent was trained with")
    command.add_argument(
        "--train-steps", type=int, default=20_000, help="of the agent trained here (default: %(default)s)"
    )
    command.add_argument("--n-envs", type=int, default=8, help="environments of a rollout (default: %(default)s)")
    command.add_argument("--n-steps", type=int, help="steps of a rollout (default: the agent's; 32 if trained here)")
    command.add_argument("--lambdas", nargs="+", type=float, help="of GAE (default: 1 0.95 0.5 0)")
    for name, what in (
        ("n-states", "states"),
        ("n-actions", "actions of each state"),
        ("n-futures", "continuations of each action"),
        ("n-episodes", "episodes the states come from"),
        ("n-rollouts", "repeated rollouts"),
        ("n-fit-steps", "environment steps ĉ is fitted on"),
        ("n-fit-updates", "updates of ĉ"),
    ):
        command.add_argument(f"--{name}", type=int, help=what)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--json", type=Path, help="write the result there, with versions and arguments")
    command.add_argument("--plot", type=Path, help="draw it there (png, svg, pdf)")
    command.add_argument("--device", default="auto")
    return command


SIZES = ("lambdas", "n_states", "n_actions", "n_futures", "n_episodes", "n_rollouts", "n_fit_steps", "n_fit_updates")


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command.

    :param argv: arguments; those of the process where ``None``
    :param prog: the command's name in its help
    :return: the exit status
    """
    command = parser(prog)
    arguments = command.parse_args(argv)
    for package in arguments.gym_packages:
        import_module(package)
    try:
        require_extra("diagnose", "rich", "scipy", *(["matplotlib"] if arguments.plot else []))
        gym.spec(arguments.env)
        model = _agent(arguments)
        sizes = {name: value for name in SIZES if (value := getattr(arguments, name)) is not None}
        result = diagnose(
            model,
            lambda: _environment(arguments, 1),
            n_steps=arguments.n_steps if arguments.agent else None,
            seed=arguments.seed,
            progress=lambda message: print(f"… {message}", file=sys.stderr, flush=True),
            **sizes,
        )
    except (ValueError, TypeError, FileNotFoundError, ModuleNotFoundError, gym.error.Error) as error:
        command.error(str(error))
    if arguments.json is not None:
        write_record(arguments.json, {"env": arguments.env, **result.to_dict(), **provenance()})
    if arguments.plot is not None:
        from sb3_relax.diagnose.plot import plot

        plot(result, arguments.plot)
    from rich.console import Console

    console = Console()
    # a pipe has no width of its own, and rich would assume 80 columns
    (console if console.is_terminal else Console(width=160)).print(result.table())
    return 0


def _environment(arguments: argparse.Namespace, n_envs: int) -> VecEnv:
    env: VecEnv = make_vec_env(arguments.env, n_envs=n_envs, seed=arguments.seed)
    if arguments.vecnormalize is not None:
        env = VecNormalize.load(str(arguments.vecnormalize), env)
        env.training = False
    return env


def _agent(arguments: argparse.Namespace) -> OnPolicyAlgorithm:
    env = _environment(arguments, arguments.n_envs)
    kind: Any = ALGORITHMS[arguments.algo] if arguments.algo else algorithm_of(env.action_space)
    if arguments.agent is not None:
        try:
            return kind.load(arguments.agent, env=env, device=arguments.device)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{arguments.agent} cannot be loaded as {kind.__name__} ({error}); "
                f"name its algorithm with --algo: {', '.join(ALGORITHMS)}"
            ) from error
    print(f"… training {kind.__name__} for {arguments.train_steps:,} steps", file=sys.stderr, flush=True)
    n_steps = 32 if arguments.n_steps is None else arguments.n_steps
    model = kind("MultiInputPolicy" if isinstance(env.observation_space, gym.spaces.Dict) else "MlpPolicy", env,
                 n_steps=n_steps, seed=arguments.seed, device=arguments.device)  # fmt: skip
    return model.learn(arguments.train_steps)
