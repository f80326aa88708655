"""The command: an agent given or trained briefly, its diagnosis printed, saved and drawn."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.algorithm.copies import algorithm_of
from sb3_relax.algorithm.safe_load import load_without_code
from sb3_relax.algorithm.saved_agents import checked_file, saver_of
from sb3_relax.algorithm.vec_normalize import load_vec_normalize
from sb3_relax.diagnose.measure import check_settings, diagnose
from sb3_relax.diagnose.variates import variates_of
from sb3_relax.environments import imported_id, make_undrawn_vec_env, require_environment
from sb3_relax.errors import AgentNotFound, UsageError, names_of_advised, one_line, require_choice, require_count
from sb3_relax.optional import import_packages, require_extra
from sb3_relax.processes import status_of, termination_as_interrupt
from sb3_relax.tasks.records import provenance, write_record

ALGORITHMS: dict[str, type[OnPolicyAlgorithm]] = {"laxa2c": LAXA2C, "relaxa2c": RELAXA2C, "a2c": A2C, "ppo": PPO}

DESCRIPTION = """\
Where does the variance of the policy gradient come from in this environment, and can LAX or RELAX lower it?

Measured at a frozen policy: a given agent's (--agent), or one trained briefly. Prints a table and one sentence."""


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command's arguments. Defaults of what is measured are those of :func:`~sb3_relax.diagnose.diagnose`."""
    default = {name: parameter.default for name, parameter in signature(diagnose).parameters.items()}
    command = argparse.ArgumentParser(
        prog=prog, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument(
        "--env", required=True, help="id of a registered environment; mine:MyEnv-v0 imports mine first"
    )
    command.add_argument(
        "--gym-packages", nargs="+", default=[], help="packages to import, which register environments (default: none)"
    )
    command.add_argument("--agent", type=Path, help="zip of an agent; without, one is trained briefly")
    command.add_argument(
        "--algo",
        choices=ALGORITHMS,
        help="the agent's algorithm (default: by its file; if trained here, by the action space)",
    )
    command.add_argument(
        "--vecnormalize",
        type=Path,
        help="vecnormalize.pkl of the agent (default: the one rl-zoo laid beside it, if any)",
    )
    command.add_argument(
        "--trust",
        action="store_true",
        help="run the code that the files of --agent and --vecnormalize may hold: for files of your own, where their "
        "tensors and plain settings are not all (default: read these alone)",
    )
    command.add_argument(
        "--train-steps", type=int, default=20_000, help="of the agent trained here (default: %(default)s)"
    )
    command.add_argument("--n-envs", type=int, default=8, help="environments of a rollout (default: %(default)s)")
    command.add_argument("--n-steps", type=int, help="steps of a rollout (default: the agent's; 32 if trained here)")
    lambdas = " ".join(f"{value:g}" for value in default["lambdas"])
    command.add_argument(
        "--lambdas", nargs="+", type=float, default=default["lambdas"], help=f"of GAE (default: {lambdas})"
    )
    for name, what in (
        ("n-states", "states"),
        ("n-actions", "actions of each state"),
        ("n-futures", "continuations of each action"),
        ("n-episodes", "episodes the states come from"),
        ("n-rollouts", "repeated rollouts"),
        ("n-fit-steps", "environment steps ĉ is fitted on"),
        ("n-fit-updates", "updates of ĉ"),
    ):
        size = default[name.replace("-", "_")]
        command.add_argument(f"--{name}", type=int, default=size, help=f"{what} (default: %(default)s)")
    command.add_argument(
        "--control-variates",
        nargs="+",
        default=default["control_variates"],
        metavar="NAME",
        help="further ones to measure, of CONTROL_VARIATES: for the step's own action (model, factorised, ...), "
        "for later ones (trajectory, ...), or for both (trajectory+model) (default: none)",
    )
    command.add_argument(
        "--seed", type=int, default=default["seed"], help="of all that is random (default: %(default)s)"
    )
    command.add_argument("--json", type=Path, help="write the result there, with versions and arguments (default: no)")
    command.add_argument("--plot", type=Path, help=f"draw it there: {', '.join(PICTURES)} (default: no)")
    command.add_argument("--device", default="auto", help="PyTorch's (default: %(default)s)")
    return command


PICTURES = (".png", ".svg", ".pdf")
SIZES = ("lambdas", "n_states", "n_actions", "n_futures", "n_episodes", "n_rollouts", "n_fit_steps", "n_fit_updates")
#: arguments of diagnose() that are handed on as they are
HANDED_ON = (*SIZES, "control_variates")


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command.

    :param argv: arguments; those of the process where ``None``
    :param prog: the command's name in its help
    :return: the exit status
    """
    command = parser(prog)
    arguments = command.parse_args(argv)
    try:
        with termination_as_interrupt():
            _diagnose(arguments)
    except KeyboardInterrupt as interrupt:
        command.exit(status_of(interrupt), f"{command.prog}: interrupted; nothing was written\n")
    except Exception as error:
        line = str(error) if isinstance(error, gym.error.DependencyNotInstalled) else one_line(error)
        if line is None:
            raise
        command.exit(2, f"{command.prog}: error: {line}{names_of_advised(line, ALGORITHMS)}\n")
    return 0


def _diagnose(arguments: argparse.Namespace) -> None:
    _check(arguments)
    if arguments.agent is not None and arguments.vecnormalize is None:
        arguments.vecnormalize = _normalisation_beside(arguments.agent, arguments.env)
    model = _agent(arguments)
    result = diagnose(
        model,
        lambda: _environment(arguments, 1),
        n_steps=arguments.n_steps if arguments.agent else None,
        seed=arguments.seed,
        progress=lambda message: print(f"… {message}", file=sys.stderr, flush=True),
        **{name: getattr(arguments, name) for name in HANDED_ON},
    )
    if arguments.json is not None:
        write_record(arguments.json, {"env": arguments.env, **result.to_dict(), **provenance()})
    if arguments.plot is not None:
        from sb3_relax.diagnose.plot import plot

        plot(result, arguments.plot)
    from rich.console import Console

    console = Console()
    # a pipe has no width of its own, and rich would assume 80 columns
    (console if console.is_terminal else Console(width=160)).print(result.table())


def _check(arguments: argparse.Namespace) -> None:
    """All that can be known to be wrong before an agent is trained or loaded."""
    try:
        require_extra("diagnose", "rich", "scipy", *(["matplotlib"] if arguments.plot else []))
    except ModuleNotFoundError as error:
        raise UsageError(str(error)) from error
    import_packages(arguments.gym_packages)
    arguments.env = imported_id(arguments.env)
    require_environment(arguments.env)
    for name in ("n_envs", "train_steps"):
        require_count(name, getattr(arguments, name))
    # n_steps alone may be left to the agent
    sizes = (*HANDED_ON, *(["n_steps"] if arguments.n_steps is not None else []))
    check_settings({name: getattr(arguments, name) for name in sizes})
    try:
        th.zeros(1, device=get_device(arguments.device)).item()
    except (RuntimeError, AssertionError) as error:  # an assertion where torch was built without that kind
        raise UsageError(f"--device {arguments.device} cannot be used: {str(error).splitlines()[0]}") from error
    if arguments.vecnormalize is not None and not arguments.vecnormalize.is_file():
        raise UsageError(f"there is no file {arguments.vecnormalize}")
    if arguments.plot is not None:
        require_choice("the ending of --plot", arguments.plot.suffix, PICTURES)


def _normalisation_beside(agent: Path, env: str) -> Path | None:
    """rl-zoo's file for FOLDER/ENV.zip: FOLDER/ENV/vecnormalize.pkl, which FOLDER/best_model.zip has too."""
    for name in (agent.stem, env.replace("/", "-")):  # as rl-zoo writes an id with a namespace
        file = agent.parent / name / "vecnormalize.pkl"
        if file.is_file():
            print(f"… using {file}", file=sys.stderr, flush=True)
            return file
    return None


def _environment(arguments: argparse.Namespace, n_envs: int) -> VecEnv:
    env = make_undrawn_vec_env(arguments.env, n_envs, arguments.seed)
    if arguments.vecnormalize is not None:
        try:
            load = VecNormalize.load if arguments.trust else load_vec_normalize
            env = load(str(arguments.vecnormalize), env)
        except UsageError as error:
            raise UsageError(f"--vecnormalize: {error}") from error
        except Exception as error:  # unpickling another's file fails in any way, other shapes with an assertion
            raise UsageError(
                f"--vecnormalize: {arguments.vecnormalize} holds no VecNormalize that fits {arguments.env} ({error!r})"
            ) from error
        env.training = False
    return env


def _agent(arguments: argparse.Namespace) -> OnPolicyAlgorithm:
    env = _environment(arguments, arguments.n_envs)
    if arguments.agent is not None:
        return _saved_agent(arguments, env)
    if arguments.algo is None and env.has_attr("action_masks"):
        raise UsageError(
            f"{arguments.env} has action masks, and the diagnosis acts without: name --algo relaxa2c where what they "
            "forbid may be done. With masks, MaskableRELAXA2C logs train/grad_variance_ratio while it trains"
        )
    kind: Any = ALGORITHMS[arguments.algo] if arguments.algo else algorithm_of(env.action_space)
    n_steps = 32 if arguments.n_steps is None else arguments.n_steps
    model = kind("MultiInputPolicy" if isinstance(env.observation_space, gym.spaces.Dict) else "MlpPolicy", env,
                 n_steps=n_steps, seed=arguments.seed, device=arguments.device)  # fmt: skip
    if arguments.control_variates:  # one that does not take the actions is refused before the training
        variates_of(model, arguments.seed, arguments.control_variates)
    print(f"… training {kind.__name__} for {arguments.train_steps:,} steps", file=sys.stderr, flush=True)
    return model.learn(arguments.train_steps)


def _saved_agent(arguments: argparse.Namespace, env: VecEnv) -> OnPolicyAlgorithm:
    saver = saver_of(arguments.agent)
    by_file = next((name for name, kind in ALGORITHMS.items() if saver == _public_name(kind)), None)
    name = arguments.algo or by_file
    kind: Any = ALGORITHMS[name] if name else algorithm_of(env.action_space)
    # SB3's own classes fail in any way on another's file
    refusals = ValueError if issubclass(kind, ControlVariateA2C) else Exception
    try:
        if not arguments.trust:
            return load_without_code(kind, arguments.agent, env, device=arguments.device)
        # SB3's own load() checks nothing
        file = arguments.agent if issubclass(kind, ControlVariateA2C) else checked_file(arguments.agent)
        return kind.load(file, env=env, device=arguments.device)
    except FileNotFoundError as error:
        raise AgentNotFound(f"there is no agent {arguments.agent}") from error
    except refusals as error:
        own = isinstance(error, UsageError)
        message = str(error) if own else f"{arguments.agent} cannot be loaded as {kind.__name__} ({error})"
        if by_file is None:
            message = (
                f"name the agent's algorithm with --algo, one of {', '.join(ALGORITHMS)} (no other agents can be "
                f"diagnosed): {message}"
            )
        elif name != by_file:
            message = f"use --algo {by_file}, or leave it out: {message}"
        raise UsageError(message) from error


def _public_name(kind: type) -> str:
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
