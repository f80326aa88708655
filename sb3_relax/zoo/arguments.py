"""What a user types, looked at before rl_zoo3 does: it says late, or with a traceback, what it cannot use."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rl_zoo3.utils

from sb3_relax.environments import require_environment
from sb3_relax.errors import MAX_LISTED, AgentNotFound, UsageError, require_count, unknown_name

#: ``enjoy``'s default folder: what is not there rl_zoo3 downloads, from a place that has no agents of ours
DOWNLOADS = "rl-trained-agents"

#: commands that make the environment. To the others it is (part of) the name of a folder or of a repository, whose
#: environment need not be installed here
MAKE_ENVIRONMENT = ("train", "tune", "enjoy", "record", "push_to_hub")

find_model = rl_zoo3.utils.get_model_path


def check_arguments(command: str, arguments: Sequence[str]) -> None:
    """Names, files, folders and packages exist, and what belongs together is there.

    :param command: a key of :data:`~sb3_relax.zoo.cli.COMMANDS`
    :param arguments: of the command
    :raises UsageError: saying what there is
    :raises AgentNotFound: for an agent to go on with that does not exist
    """
    parser = argparse.ArgumentParser(prog=f"sb3-relax {command}", usage=argparse.SUPPRESS, add_help=False)
    parser.add_argument("-a", "--algo", "--algos", nargs="+", default=[])
    parser.add_argument("-e", "--env", nargs="+", default=[])
    parser.add_argument("-f", "--exp-folder", "--exp-folders", dest="folders", nargs="+", default=[])
    parser.add_argument("-i", "--trained-agent", "--input", dest="input")
    parser.add_argument("-iqm", action="store_true")  # plot-file's: it would be read as -i qm
    parser.add_argument("--n-envs", type=int, default=1)
    parser.add_argument("--n-trials", type=int, default=1)
    parsed, _ = parser.parse_known_args(arguments)
    # plot-eval alone takes them in any case
    algorithms = [name.lower() for name in parsed.algo] if command == "plot-eval" else parsed.algo
    for algorithm in algorithms:
        if algorithm not in rl_zoo3.utils.ALGOS:
            raise unknown_name("algorithm", algorithm, rl_zoo3.utils.ALGOS)
    for environment in parsed.env:
        if command in MAKE_ENVIRONMENT:
            require_environment(environment)
    require_count("--n-envs", parsed.n_envs)
    require_count("--n-trials", parsed.n_trials)
    if command in ("train", "tune"):
        _require_whole_trial(command, arguments)
        _require_packages(arguments)
    given = parsed.input
    if command in ("train", "tune") and given and not (given.endswith(".zip") and Path(given).is_file()):
        raise AgentNotFound(f"-i must name the .zip file of an agent, and there is none at {given}")
    if command == "plot-file" and given:
        file = Path(given.removesuffix(".pkl") + ".pkl")  # as rl_zoo3 completes it
        if not file.is_file():
            raise UsageError(f"there is no file {file}; sb3-relax plot-eval -o writes one")
    if command in ("plot", "plot-eval") and parsed.folders and algorithms and parsed.env:
        _require_runs([Path(folder, algorithm) for folder in parsed.folders for algorithm in algorithms], parsed.env)


def searches(command: str, arguments: Sequence[str]) -> bool:
    """Whether a command is a search for hyper-parameters, which rl_zoo3 has as an option of ``train``."""
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, add_help=False)
    parser.add_argument("-optimize", "--optimize-hyperparameters", dest="asked", action="store_true")
    return command == "tune" or parser.parse_known_args(arguments)[0].asked


def _require_whole_trial(command: str, arguments: Sequence[str]) -> None:
    """All three options that name a trial, or none: rl_zoo3 trains with its defaults where one is missing."""
    parser = argparse.ArgumentParser(prog=f"sb3-relax {command}", usage=argparse.SUPPRESS, add_help=False)
    for option in ("--storage", "--study-name", "--trial-id"):
        parser.add_argument(option, dest=option, type=int if option == "--trial-id" else str)
    options = vars(parser.parse_known_args(arguments)[0])
    given = [option for option, value in options.items() if value is not None]
    missing = [option for option in options if option not in given]
    # a search writes to a study, which needs no trial
    of_a_trial = "--trial-id" in given if searches(command, arguments) else bool(given)
    if of_a_trial and missing:
        raise UsageError(
            f"a trial's hyper-parameters are named by --storage, --study-name and --trial-id together: "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        )


def _require_packages(arguments: Sequence[str]) -> None:
    """What options need and the extra zoo does not bring."""
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, add_help=False)
    parser.add_argument("--track", action="store_true")
    parser.add_argument("-tb", "--tensorboard-log", dest="tensorboard")
    parser.add_argument("-P", "--progress", action="store_true")
    parser.add_argument("--sampler")
    parsed, _ = parser.parse_known_args(arguments)
    for option, asked, modules in (
        ("--track", parsed.track, ("wandb", "tensorboard")),
        ("--tensorboard-log", parsed.tensorboard, ("tensorboard",)),
        ("--progress", parsed.progress, ("tqdm", "rich")),
        ("--sampler auto", parsed.sampler == "auto", ("optunahub",)),
    ):
        missing = [module for module in modules if asked and find_spec(module) is None]
        if missing:
            raise UsageError(f"{option} needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def _require_runs(folders: Sequence[Path], environments: Sequence[str]) -> None:
    """There is something to plot: rl_zoo3 takes every run that has an environment's name, or part of it, in its own."""
    there = [folder for folder in folders if folder.is_dir()]
    if not there:
        raise UsageError(f"nothing to plot: there is no folder {' or '.join(map(str, folders))}")
    runs = sorted({run.name for folder in there for run in folder.iterdir() if run.is_dir()})
    if not any(environment in run for environment in environments for run in runs):
        raise UsageError(
            f"nothing to plot: no folder in {' or '.join(map(str, there))} has {' or '.join(environments)} in its "
            f"name; there {'are ' + _listed(runs) if runs else 'is none'}"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_LISTED]) + (", …" if len(names) > MAX_LISTED else "")


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
    """rl_zoo3's, with an error that says what there is; of the newest run that has an agent, where none is named.

    The newest may have none: a search for hyper-parameters, or training that was refused.

    :raises AgentNotFound: where there is no such agent
    """
    newest = rl_zoo3.utils.get_latest_run_id(f"{folder}/{algo}", rl_zoo3.utils.EnvironmentName(env_name))
    runs = [exp_id] if exp_id else list(range(newest, 0, -1)) or [0]
    errors = []
    for run in runs:
        try:
            found: tuple[str, str, str] = find_model(run, folder, algo, env_name, *args)
        except (AssertionError, ValueError) as error:
            errors.append(error)
            continue
        if not exp_id:
            print(f"Loading latest experiment, id={run}")
        return found
    if DOWNLOADS in folder and not rl_zoo3.utils.ALGOS[algo].__module__.startswith("sb3_relax."):
        raise errors[0]  # rl_zoo3 takes it as the sign to download one
    where = "; -f names another folder (train's own is logs)" if DOWNLOADS in folder else ""
    into = "" if DOWNLOADS in folder else f" -f {folder}"
    raise AgentNotFound(
        f"{errors[0]}. {_agents_in(Path(folder))}{where}. "
        f"To train one: sb3-relax train --algo {algo} --env {env_name}{into}"
    ) from errors[0]


def _agents_in(folder: Path) -> str:
    runs = sorted({agent.parent.relative_to(folder).as_posix() for agent in folder.glob("*/*/*.zip")})
    if not runs:
        return f"There is no agent in {folder}"
    return f"Agents in {folder} (the number is --exp-id): {_listed(runs)}"
