"""What a user types → what rl_zoo3's parsers take: options of ours, own environments, and the algorithm's choice."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rl_zoo3.utils

from sb3_relax.environments import id_alone, imported_id
from sb3_relax.errors import UsageError, require_count
from sb3_relax.optional import import_packages
from sb3_relax.zoo.arguments import MAKE_ENVIRONMENT, StoreDict, searches
from sb3_relax.zoo.choice import choose_algorithm
from sb3_relax.zoo.settings import read_yaml

#: commands of one algorithm, which rl_zoo3 takes to be PPO where none is named
OF_ONE_ALGORITHM = ("train", "tune", "enjoy", "record")

#: commands of rl_zoo3 that know ``--gym-packages``; the others get their arguments without it
KNOW_GYM_PACKAGES = ("train", "tune", "enjoy")

#: rl_zoo3's ``--env`` where none is named
DEFAULT_ENVIRONMENT = "CartPole-v1"

#: commands of rl_zoo3 that read files which somebody else may have made
TAKE_TRUST = ("train", "tune", "enjoy", "record", "push_to_hub", "plot-file")

#: what rl_zoo3's own help does not say
HELP = {
    "train": "sb3-relax adds to rl_zoo3's options, which follow:\n"
    "  --max-episodes N  stop after N episodes of each environment (N * n_envs in all), as SB3's\n"
    "                    StopTrainingOnMaxEpisodes does, or after n_timesteps where those pass first\n"
    "Without --algo, the algorithm is chosen by the environment's actions.\n"
}
HELP |= {name: HELP["train"].splitlines()[-1] + "\n" for name in OF_ONE_ALGORITHM if name != "train"}
TRUST_HELP = (
    "  --trust           run the code that agents, statistics and YAML files may hold: for files of your own, where\n"
    "                    tensors and plain settings are not all. Without, nothing of them is run\n"
)
HELP |= {name: TRUST_HELP + HELP.get(name, "") for name in TAKE_TRUST}


def with_environments(command: str, arguments: Sequence[str]) -> list[str]:
    """Arguments whose environments' modules have been imported, and are named no more.

    :param command: a key of :data:`~sb3_relax.zoo.cli.COMMANDS`
    :param arguments: with ``--gym-packages mine``, or ``--env mine:MyEnv-v0``
    :raises UsageError: for a module that does not exist
    """
    parsed = _environments_and_packages(arguments)
    import_packages(parsed.gym_packages)
    prepared = list(arguments) if command in KNOW_GYM_PACKAGES else _without("--gym-packages", arguments)
    for given in parsed.env:
        alone = imported_id(given) if command in MAKE_ENVIRONMENT else id_alone(given)
        prepared = [word.removesuffix(given) + alone if word.endswith(given) else word for word in prepared]
    return prepared


def packages_in(arguments: Sequence[str]) -> list[str]:
    """Modules that the user names, by ``--gym-packages mine`` or ``--env mine:MyEnv-v0``."""
    parsed = _environments_and_packages(arguments)
    return [*parsed.gym_packages, *(module for env in parsed.env if (module := env.rpartition(":")[0]))]


def gathered_in(arguments: Sequence[str]) -> list[Path]:
    """The files that ``plot-file`` reads, as rl_zoo3 completes their names."""
    parser = _parser()
    parser.add_argument("-i", "--input")
    parser.add_argument("-iqm", action="store_true")  # it would be read as -i qm
    parser.add_argument("--merge", nargs="+", default=[])
    parsed, _ = parser.parse_known_args(arguments)
    given = [] if parsed.input is None else [Path(parsed.input.removesuffix(".pkl") + ".pkl")]
    return [*given, *map(Path, parsed.merge)]


def without_trust(command: str, arguments: Sequence[str]) -> tuple[list[str], bool]:
    """A command's arguments without ``--trust``, which rl_zoo3 does not know, and whether it was there.

    :param command: a key of :data:`~sb3_relax.zoo.cli.COMMANDS`
    """
    if command not in TAKE_TRUST:
        return list(arguments), False
    return [argument for argument in arguments if argument != "--trust"], "--trust" in arguments


def without_max_episodes(arguments: Sequence[str]) -> tuple[list[str], int | None]:
    """``train``'s arguments without ``--max-episodes``, which rl_zoo3 does not know, and its value.

    :raises UsageError: for a number below 1, or in a search
    """
    parser = _parser()
    parser.add_argument("--max-episodes", type=int)
    parsed, remaining = parser.parse_known_args(arguments)
    if parsed.max_episodes is not None:
        require_count("--max-episodes", parsed.max_episodes)
        if searches("train", arguments):
            raise UsageError("--max-episodes is for training: a search compares trials after the same number of steps")
    return remaining, parsed.max_episodes


def with_algorithm(command: str, arguments: Sequence[str]) -> list[str]:
    """Arguments that name an algorithm: where the user names none, it is chosen, and the choice is printed.

    An agent to go on with has the one of the folder that rl-zoo laid it in. Otherwise the environment decides.

    :param command: a key of :data:`~sb3_relax.zoo.cli.COMMANDS`
    :param arguments: whose environment exists
    """
    parser = _parser()
    parser.add_argument("--algo")
    parser.add_argument("--env", default=DEFAULT_ENVIRONMENT)
    parser.add_argument("--env-kwargs", nargs="+", action=StoreDict)
    parser.add_argument("-i", "--trained-agent", dest="agent")
    parser.add_argument("-conf", "--conf-file")
    parsed, _ = parser.parse_known_args(arguments)
    if command not in OF_ONE_ALGORITHM or parsed.algo is not None:
        return list(arguments)
    name, reason = _of_folder(parsed.agent) or choose_algorithm(parsed.env, parsed.env_kwargs, rl_zoo3.utils.ALGOS)
    masked = f"{name}_mask"
    if masked in rl_zoo3.utils.ALGOS and _has_wrapper(parsed.conf_file, parsed.env):
        reason += f". The entry's env_wrapper was not asked for masks: where it has them, name --algo {masked}"
    print(f"Without --algo, {name} is taken: {reason}")
    return [*arguments, "--algo", name]


def _has_wrapper(conf_file: str | None, env_id: str) -> bool:
    """Whether an entry of the user's names wrappers, which are not made before it is known that they may be run."""
    if conf_file is None or not conf_file.endswith((".yml", ".yaml")) or not Path(conf_file).is_file():
        return False
    entries = read_yaml(Path(conf_file))
    return isinstance(entries, dict) and "env_wrapper" in (entries.get(env_id) or {})


def _of_folder(agent: str | None) -> tuple[str, str] | None:
    """The algorithm in whose folder an agent lies, as in logs/relaxa2c/CartPole-v1_1/CartPole-v1.zip."""
    folders: Sequence[Any] = Path(agent).resolve().parents if agent else []
    if len(folders) > 1 and folders[1].name in rl_zoo3.utils.ALGOS:
        return folders[1].name, f"{agent} lies in its folder"
    return None


def _environments_and_packages(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    parser.add_argument("-e", "--env", nargs="+", default=[])
    parser.add_argument("--gym-packages", nargs="+", default=[])
    return parser.parse_known_args(arguments)[0]


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser("sb3-relax", usage=argparse.SUPPRESS, add_help=False)


def _without(option: str, arguments: Sequence[str]) -> list[str]:
    parser = _parser()
    parser.add_argument(option, nargs="+")
    return parser.parse_known_args(arguments)[1]
