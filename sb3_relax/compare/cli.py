"""The command: three arms over several seeds, one table and one plot."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from sb3_relax.environments import imported_id, require_environment
from sb3_relax.errors import one_line, require_count, unknown_name
from sb3_relax.files import write_whole
from sb3_relax.optional import import_packages, require_extra
from sb3_relax.processes import status_of, termination_as_interrupt

DESCRIPTION = """\
Does a control variate help in this environment?

Trains the algorithm for the environment's actions (RELAXA2C, LAXA2C, …), A2C with a state baseline ĉ(s), and A2C,
with the same hyper-parameters but for the control variate's, over several seeds. Prints a table with intervals and
draws a plot. Every run is recorded when it ends: the same command goes on where it was stopped, and more --seeds add
to them."""


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog=prog, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument(
        "--env", required=True, help="id of a registered environment; mine:MyEnv-v0 imports mine first"
    )
    command.add_argument(
        "--gym-packages", nargs="+", default=[], help="packages to import, which register environments (default: none)"
    )
    command.add_argument("--algo", help="laxa2c, relaxa2c, … (default: chosen by the environment's actions)")
    command.add_argument("-n", "--n-timesteps", type=int, help="steps of every run (default: the entry's)")
    command.add_argument(
        "--seeds", type=int, default=5, help="runs of each, with seeds from 0 on (default: %(default)s)"
    )
    command.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, one core each (default: all cores)"
    )
    command.add_argument(
        "--output", type=Path, help="folder of the runs, the table and the plot (default: compare/ENV)"
    )
    command.add_argument(
        "-conf",
        "--conf-file",
        type=Path,
        help="YAML file with the hyper-parameters (default: the algorithm's in zoo_hyperparams)",
    )
    command.add_argument(
        "--trust",
        action="store_true",
        help="run any code that --conf-file names (default: wrappers, callbacks and policies of known packages and of "
        "--gym-packages)",
    )
    return command


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command.

    :param argv: arguments; those of the process where ``None``
    :param prog: the command's name in its help
    :return: the exit status: 1 where a run has failed
    """
    command = parser(prog)
    arguments = command.parse_args(argv)
    try:
        require_extra("zoo", "rl_zoo3", "yaml", "scipy", "matplotlib")
        with termination_as_interrupt():
            return compare(arguments)
    except KeyboardInterrupt as interrupt:
        command.exit(status_of(interrupt), "\nstopped: the same command goes on from here\n")
    except Exception as error:
        line = str(error) if isinstance(error, gym.error.DependencyNotInstalled) else one_line(error)
        if line is None:
            raise
        command.exit(2, f"{command.prog}: error: {line}\n")


def compare(arguments: argparse.Namespace) -> int:
    """Everything that is asked for, less what is there."""
    # these need the extra
    from sb3_relax.compare.arms import arms_of, keep_entries
    from sb3_relax.compare.report import Side, draw, table
    from sb3_relax.compare.runs import Job, read, run_all
    from sb3_relax.zoo.registry import ALGORITHMS, register

    register()
    for name in ("seeds", "jobs"):
        require_count(f"--{name}", getattr(arguments, name))
    import_packages(arguments.gym_packages)
    env_id = imported_id(arguments.env)
    require_environment(env_id)
    algorithm = _algorithm(arguments.algo, env_id)
    arms = arms_of(algorithm, ALGORITHMS[algorithm].__name__, _entry(arguments, algorithm, env_id))
    folder = arguments.output or Path("compare", env_id.replace("/", "-"))
    keep_entries(arms, env_id, folder)
    jobs = [
        Job(arm, seed, arguments.env, tuple(arguments.gym_packages), folder, arguments.trust)
        for seed in range(arguments.seeds)
        for arm in arms
    ]
    todo = [job for job in jobs if read(job) is None]
    print(
        f"{len(jobs) - len(todo)} of {len(jobs)} runs are in {folder}" if len(todo) < len(jobs) else f"Runs: {folder}"
    )
    failed: list[Job] = []

    def landed(job: Job, error: str | None) -> None:
        there = sum(other.record.is_file() for other in jobs)
        print(f"[{there}/{len(jobs)}] {job.arm.label}, seed {job.seed}{': failed' if error else ''}", flush=True)
        if error:
            failed.append(job)
            print(error, file=sys.stderr, flush=True)

    if todo:
        run_all(todo, arguments.jobs, landed)
    sides = [
        Side(arm.label, records)
        for arm in arms
        if (records := [record for job in jobs if job.arm == arm and (record := read(job)) is not None])
    ]
    if sides:
        text = table(sides, env_id, arms[-1].label)
        write_whole(folder / "table.md", text.encode())
        draw(sides, env_id, folder / "returns.png")
        print(f"\n{text}\nThe plot: {folder / 'returns.png'}")
    if failed:
        print(f"{len(failed)} of {len(jobs)} runs failed; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def _algorithm(named: str | None, env_id: str) -> str:
    from sb3_relax.zoo.choice import choose_algorithm
    from sb3_relax.zoo.registry import ALGORITHMS

    ours = {name: kind for name, kind in ALGORITHMS.items() if name != "a2c_matched"}
    if named is None:
        name, reason = choose_algorithm(env_id, None, ours)
        print(f"Without --algo, {name} is taken: {reason}")
        return name
    if named not in ours:
        raise unknown_name("algorithm", named, ours)
    return named


def _entry(arguments: argparse.Namespace, algorithm: str, env_id: str) -> dict[str, Any]:
    """The environment's hyper-parameters, or those for any other."""
    from sb3_relax.zoo.hyperparams import check_keys, check_sizes, hyperparams_file, read_entries, require_own_name
    from sb3_relax.zoo.registry import ALGORITHMS

    file = arguments.conf_file or hyperparams_file(algorithm)
    assert file is not None  # each of ours has one
    entries = read_entries(file)
    name = env_id if env_id in entries else "default"
    if name not in entries:
        raise unknown_name(f"entry of {file}", env_id, entries)
    print(f"Hyper-parameters: the entry {name} of {file}")
    entry = dict(entries[name])
    if arguments.n_timesteps is not None:
        require_count("--n-timesteps", arguments.n_timesteps)
        entry["n_timesteps"] = arguments.n_timesteps
    check_sizes(entry)
    check_keys(algorithm, env_id, {*entry}, ALGORITHMS)  # type: ignore[arg-type]
    require_own_name(algorithm, entry)
    return entry
