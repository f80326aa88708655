"""The command line: ``sb3-relax COMMAND ...``."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import gymnasium

from sb3_relax.errors import UsageError, names_of_advised, one_line, unknown_name
from sb3_relax.optional import how_to_install, require_extra
from sb3_relax.processes import Terminated, status_of, termination_as_interrupt


class Command(NamedTuple):
    """A module that ``python -m`` can run."""

    module: str
    help: str
    arguments: tuple[str, ...] = ()  #: put before the user's


#: name → what it runs. A new command needs a line here and a module with a ``__main__``
COMMANDS = {
    "train": Command("rl_zoo3.train", "train an agent; -i AGENT.zip continues one"),
    "tune": Command("rl_zoo3.train", "search hyper-parameters with Optuna (train -optimize)", ("-optimize",)),
    "enjoy": Command("rl_zoo3.enjoy", "watch and score a trained agent"),
    "record": Command("rl_zoo3.record_video", "record a video of a trained agent"),
    "plot": Command("rl_zoo3.plots.plot_train", "plot training returns"),
    "plot-eval": Command("rl_zoo3.plots.all_plots", "gather evaluations of several runs: table and plot"),
    "plot-file": Command("rl_zoo3.plots.plot_from_file", "plot what plot-eval has gathered"),
    "diagnose": Command("sb3_relax.diagnose", "where the gradient's variance comes from, and if ĉ can help"),
    "compare": Command("sb3_relax.compare", "train ours, A2C with ĉ(s) and A2C over several seeds: a table and a plot"),
    "push_to_hub": Command("sb3_relax.zoo.hub", "upload an agent, with its model card, to the Hugging Face hub"),
    "load_from_hub": Command("rl_zoo3.load_from_hub", "download an agent"),
}

#: what the zoo extra brings: rl_zoo3, and what it uses without declaring it
ZOO_MODULES = ("rl_zoo3", "matplotlib", "pandas", "requests", "scipy", "seaborn")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; its name first, then its own arguments.

    :param argv: without the program's name; ``None`` for the process's own
    :raises SystemExit: with a message, for what the user gave and cannot be used (names, values, files), an agent that
        does not exist, or a package that is not installed, and after Ctrl-C and SIGTERM, at which training is saved.
        Every other error may be a bug, and keeps its traceback
    """
    parser = argparse.ArgumentParser(
        prog="sb3-relax",
        description="rl-zoo with laxa2c, relaxa2c, their recurrent (_lstm), maskable (_mask) and hybrid (_hybrid) "
        "kinds, and a2c_matched.",
        epilog="commands:\n" + "\n".join(f"  {name:14} {command.help}" for name, command in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", metavar="COMMAND", help="one of those below; COMMAND --help lists its options")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parsed = parser.parse_args(argv)
    try:
        if parsed.command not in COMMANDS:
            raise unknown_name("command", parsed.command, COMMANDS)
        with termination_as_interrupt() as termination:
            run(parsed.command, parsed.arguments)
    except KeyboardInterrupt as interrupt:
        parser.exit(status_of(interrupt), f"sb3-relax {parsed.command}: interrupted\n")
    except gymnasium.error.DependencyNotInstalled as error:
        parser.exit(2, f"sb3-relax: error: {error}\n{remedy(str(error))}\n")
    except Exception as error:
        if (line := one_line(error)) is None:
            raise
        parser.exit(2, f"sb3-relax: error: {line}\n")
    if termination.came:  # and rl_zoo3 has saved what there was
        parser.exit(status_of(Terminated()), f"sb3-relax {parsed.command}: ended by SIGTERM\n")


def remedy(error: str) -> str:
    """What to install, or to leave out, where an environment lacks a dependency."""
    if "pygame" in error:
        return "pip install pygame-ce (Box2D's environments need it; classic control to draw: --no-render does without)"
    return f"MuJoCo and Box2D: {how_to_install('envs')}"


def run(name: str, arguments: Sequence[str]) -> None:
    """Run a command of the table as ``python -m`` would, rl_zoo3 knowing our algorithms.

    As with ``python -m``, modules of the current folder can be imported: an environment, a wrapper, a callback.
    """
    before = list(sys.path)
    if not {"", os.getcwd()} & {*sys.path}:
        sys.path.insert(0, os.getcwd())
    try:
        _run(name, arguments)
    finally:
        sys.path[:] = before


def _run(name: str, arguments: Sequence[str]) -> None:
    command = COMMANDS[name]
    if command.module.startswith(("rl_zoo3", "sb3_relax.zoo")):
        require_extra("zoo", *ZOO_MODULES)
        arguments = _prepared(name, arguments)
    before = sys.argv
    sys.argv = [f"sb3-relax {name}", *command.arguments, *arguments]
    try:
        with warnings.catch_warnings():
            # rl_zoo3.plots imports its own modules, about which runpy warns
            warnings.filterwarnings("ignore", message=".*found in sys.modules after import of package.*")
            runpy.run_module(command.module, run_name="__main__")
        if command.module.startswith("rl_zoo3.plots") and "--no-display" not in arguments:
            from sb3_relax.zoo.figures import save_unshown  # needs the extra

            save_unshown(name)
    except UsageError as error:
        from sb3_relax.zoo.registry import ALGORITHMS

        raise UsageError(f"{error}{names_of_advised(str(error), ALGORITHMS)}") from error
    finally:
        sys.argv = before


def _prepared(name: str, arguments: Sequence[str]) -> Sequence[str]:
    """The arguments that rl_zoo3's command gets, looked at before, with our algorithms registered."""
    # these need the extra
    from sb3_relax.zoo.arguments import check_arguments
    from sb3_relax.zoo.preparation import (
        HELP,
        gathered_in,
        packages_in,
        with_algorithm,
        with_environments,
        without_max_episodes,
        without_trust,
    )
    from sb3_relax.zoo.registry import register
    from sb3_relax.zoo.strangers import require_numbers_alone

    if not {"-h", "--help"}.isdisjoint(arguments):
        register()
        print(HELP.get(name, ""))
        return arguments
    arguments, trusted = without_trust(name, arguments)
    max_episodes = None
    if name == "train":
        arguments, max_episodes = without_max_episodes(arguments)
    register(max_episodes, trusted, packages_in(arguments))
    arguments = with_environments(name, arguments)
    check_arguments(name, arguments)
    if name == "plot-file" and not trusted:
        for file in gathered_in(arguments):
            require_numbers_alone(file)
    return with_algorithm(name, arguments)
