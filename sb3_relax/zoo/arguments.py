"""What a user types, looked at before rl_zoo3 does: it says late, or with a traceback, what it cannot use."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import rl_zoo3.utils

from sb3_relax.common.checks import require_count
from sb3_relax.common.errors import AgentNotFound, UsageError
from sb3_relax.common.extras import import_packages
from sb3_relax.common.names import MAX_LISTED, unknown_name

#: ``enjoy``'s default folder: what is not there rl_zoo3 downloads, from a place that has no agents of ours
DOWNLOADS = "rl-trained-agents"

find_model = rl_zoo3.utils.get_model_path


def check_arguments(command: str, arguments: Sequence[str]) -> None:
    """Names, files and folders exist.

    :param command: a key of :data:`~sb3_relax.zoo.cli.COMMANDS`
    :param arguments: of the command
    :raises UsageError: saying what there is
    :raises AgentNotFound: for an agent to go on with that does not exist
    """
    parser = argparse.ArgumentParser(prog=f"sb3-relax {command}", usage=argparse.SUPPRESS, add_help=False)
    parser.add_argument("-a", "--algo", "--algos", nargs="+", default=[])
    parser.add_argument("-e", "--env", nargs="+", default=[])
    parser.add_argument("-f", "--exp-folder", "--exp-folders", dest="folders", nargs="+", default=[])
    parser.add_argument("-i", "--trained-agent")
    parser.add_argument("--gym-packages", nargs="+", default=[])
    parser.add_argument("--n-envs", type=int, default=1)
    parsed, _ = parser.parse_known_args(arguments)
    for algorithm in parsed.algo:
        if algorithm.lower() not in rl_zoo3.utils.ALGOS:
            raise unknown_name("algorithm", algorithm, rl_zoo3.utils.ALGOS)
    import_packages(parsed.gym_packages)
    for environment in parsed.env:
        if environment not in gymnasium.registry:
            where = "All: python -c 'import gymnasium; gymnasium.pprint_registry()'"
            raise unknown_name("environment", environment, gymnasium.registry, where)
    require_count("--n-envs", parsed.n_envs)
    agent = parsed.trained_agent
    if command in ("train", "tune") and agent and not (agent.endswith(".zip") and Path(agent).is_file()):
        raise AgentNotFound(f"-i must name the .zip file of an agent, and there is none at {agent}")
    if command in ("plot", "plot-eval"):
        looked_in = [Path(folder, algorithm.lower()) for folder in parsed.folders for algorithm in parsed.algo]
        if looked_in and not any(folder.is_dir() for folder in looked_in):
            raise UsageError(f"nothing to plot: there is no folder {' or '.join(map(str, looked_in))}")


class StoreDict(rl_zoo3.utils.StoreDict):
    """rl_zoo3's reading of ``key:value``, value being Python, with an error that says so."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except Exception as error:  # whatever the user's Python raises
            raise UsageError(
                f"{option_string} takes key:value, each value in Python (text in quotes of its own, as in "
                f"policy:\"'MlpPolicy'\"); got {' '.join(values)}: {error}"
            ) from error


def get_model_path(exp_id: int, folder: str, algo: str, env_name: str, *args: Any) -> tuple[str, str, str]:
    """rl_zoo3's, with an error that says what there is.

    :raises AgentNotFound: where there is no such agent
    """
    try:
        found: tuple[str, str, str] = find_model(exp_id, folder, algo, env_name, *args)
        return found
    except (AssertionError, ValueError) as error:
        if DOWNLOADS in folder and not rl_zoo3.utils.ALGOS[algo].__module__.startswith("sb3_relax."):
            raise  # rl_zoo3 takes it as the sign to download one
        where = "; -f names another folder (train's own is logs)" if DOWNLOADS in folder else ""
        into = "" if DOWNLOADS in folder else f" -f {folder}"
        raise AgentNotFound(
            f"{error}. {_agents_in(Path(folder))}{where}. "
            f"To train one: sb3-relax train --algo {algo} --env {env_name}{into}"
        ) from error


def _agents_in(folder: Path) -> str:
    runs = sorted({agent.parent.relative_to(folder).as_posix() for agent in folder.glob("*/*/*.zip")})
    if not runs:
        return f"There is no agent in {folder}"
    listed = ", ".join(runs[:MAX_LISTED]) + (", …" if len(runs) > MAX_LISTED else "")
    return f"Agents in {folder} (the number is --exp-id): {listed}"
