"""The command of a task: runs of several estimators and seeds, their records, figures and table."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from sb3_relax.tasks.arguments import HelpFormatter, folder
from sb3_relax.tasks.intervals import half_width, plus_minus
from sb3_relax.tasks.problem import Config, Problem
from sb3_relax.tasks.process import Stop, claim, prepare_cpu
from sb3_relax.tasks.records import provenance, read_record, write_record
from sb3_relax.tasks.trainer import ONLOOKER, STATES, Trainer

#: a problem of its settings and the command's options
Make = Callable[[Any, argparse.Namespace], Problem]
Run = dict[str, Any]


def name_of(config: Config) -> str:
    """Of a run's checkpoint, picture and events."""
    settings = [f"{name}{value}" for name, value in asdict(config).items() if name not in ("estimator", "seed")]
    return "_".join([config.estimator, f"seed{config.seed}", *settings])


def grouped(runs: list[Run], problem: type[Problem]) -> dict[str, list[Run]]:
    """Runs that differ by their seed alone, by name: the estimator, and what tells it from others of that estimator."""
    keys = [field.name for field in fields(problem.config) if field.name != "seed"]
    order = list(problem.cases)
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (order.index(run["estimator"]), run["seed"])):
        groups.setdefault(tuple(run[key] for key in keys), []).append(run)
    named = {}
    for settings, of in groups.items():
        alike = [other for other in groups if other[0] == settings[0]]
        telling = [i for i in range(1, len(keys)) if len({other[i] for other in alike}) > 1]
        named[", ".join([settings[0], *(f"{keys[i]} {settings[i]}" for i in telling)])] = of
    return named


def area(run: Run, measure: str) -> float:
    """The mean of a measure over the calls of a run."""
    calls, values = np.array(run["curve"]["calls"]), np.array(run["curve"][measure])
    return float(np.sum(np.diff(calls) * (values[1:] + values[:-1]) / 2) / (calls[-1] - calls[0]))


def ratio(run: Run, state: str) -> float:
    """The variance of a run's estimator over NVIL's, at a state of the run, at equal calls of f."""
    variance = run["variance"][state]
    return float(variance["own"] / variance[ONLOOKER])


def summarise(runs: list[Run], problem: type[Problem]) -> dict[str, dict[str, tuple[float, float | None]]]:
    """For each group of runs, means over seeds and half of their 95% t-intervals (``None`` for one seed)."""
    first = problem.measures[0]
    columns: dict[str, Callable[[Run], float]] = {
        f"{first}, area": lambda run: area(run, first),
        **{measure: lambda run, measure=measure: run["test"][measure] for measure in problem.measures},  # type: ignore[misc]
        **{f"variance, {state}": lambda run, state=state: ratio(run, state) for state in STATES},  # type: ignore[misc]
    }
    return {
        name: {title: mean_and_half([value(run) for run in of]) for title, value in columns.items()}
        for name, of in grouped(runs, problem).items()
    }


def mean_and_half(values: list[float]) -> tuple[float, float | None]:
    """A mean, and half of its 95% t-interval."""
    return float(np.mean(values)), half_width(values)


def draw_curves(runs: list[Run], problem: type[Problem], path: Path) -> None:
    """Every measure on the validation split against calls of f: means over seeds, and 95% t-intervals as bands."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = grouped(runs, problem)
    figure = Figure(figsize=(6 * len(problem.measures), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(problem.measures), squeeze=False)[0]
    for axis, measure in zip(axes, problem.measures, strict=True):
        for index, (name, of) in enumerate(groups.items()):
            calls, values = np.array(of[0]["curve"]["calls"]), np.array([run["curve"][measure] for run in of])
            label, style = name, "-"
            if of[0]["estimator"] == "exact":  # beside the others, step by step
                label, style = f"{name}, {calls[-1] / of[0]['calls']:.0f} times the calls", "--"
                calls = calls / calls[-1] * of[0]["calls"]
            mean = values.mean(0)
            (line,) = axis.plot(calls, mean, style, label=label, color=f"C{index}")
            if len(of) > 1:
                half = np.array([half_width(column) for column in values.T.tolist()])
                axis.fill_between(calls, mean - half, mean + half, alpha=0.15, color=line.get_color())
        axis.set(xlabel="calls of f", ylabel=measure.replace("_", " "), ylim=(0, 1))
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def configs(problem: type[Problem], options: argparse.Namespace) -> Iterator[Config]:
    """One for each run that is asked for, seeds outermost, so that all estimators have some soon."""
    own = {field.name: getattr(options, field.name, None) for field in fields(problem.config)}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for estimator in dict.fromkeys(options.estimator):
            yield problem.config(**{**own, "estimator": estimator, "seed": seed})


def compare(problem: type[Problem], make: Make, options: argparse.Namespace) -> None:
    """Do the runs that have no record yet, and show all that have one.

    :raises SystemExit: where a signal stopped it
    """
    path = options.output / "record.json"
    with claim(options.output), Stop() as stop:
        runs = runs_in(path, problem)
        for config in configs(problem, options):
            if any(run.items() >= asdict(config).items() for run in runs):
                continue
            trainer = trained(config, make, options, stop)
            if trainer.step == trainer.steps:
                runs.append({**trainer.result(), **provenance()})
                write_record(path, {"task": problem.name, "runs": runs})
                checkpoint_of(config, options).unlink(missing_ok=True)
            if stop.signal is not None:
                print(f"stopped at step {trainer.step}; the same command goes on from there", file=sys.stderr)
                raise SystemExit(128 + stop.signal)
        draw_curves(runs, problem, options.output / "curves.png")
    summary = summarise(runs, problem)
    titles = list(next(iter(summary.values())))
    width = max(map(len, summary))
    print(" " * width, *(f"{title:>16}" for title in titles))
    for name, row in summary.items():
        print(f"{name:{width}}", *(f"{plus_minus(*row[title], '.3f'):>16}" for title in titles))
    print(f"{options.output / 'curves.png'}, record.json")


def runs_in(path: Path, problem: type[Problem]) -> list[Run]:
    """The runs of a record, none where there is no record.

    :raises ValueError: where it is damaged, or of another task
    """
    if not path.exists():
        return []
    record = read_record(path)
    if record.get("task") != problem.name:
        raise ValueError(f"{path} is of another task than {problem.name}: name another folder by --output")
    runs: list[Run] = record["runs"]
    return runs


def checkpoint_of(config: Config, options: argparse.Namespace) -> Path:
    """Where a run that is not over is kept."""
    path: Path = options.output / "checkpoints" / f"{name_of(config)}.pt"
    return path


def trained(config: Config, make: Make, options: argparse.Namespace, stop: Stop) -> Trainer:
    """A run, from its checkpoint where it has one, to its end or to where it was asked to stop."""
    from tqdm import tqdm

    name, checkpoint = name_of(config), checkpoint_of(config, options)
    trainer = Trainer(config, lambda config: make(config, options))
    if checkpoint.exists():
        trainer.load(checkpoint)
    with ExitStack() as stack:
        log = logger(stack, options.output / "tensorboard" / name, trainer) if options.tensorboard else None
        bar = stack.enter_context(
            tqdm(total=trainer.steps, initial=trainer.step, unit="step", desc=f"{config.estimator}, seed {config.seed}")
        )

        def show() -> None:
            bar.set_postfix({key: f"{values[-1]:.3f}" for key, values in trainer.curve.items() if key != "calls"})
            if log is not None:
                log()

        trainer.train(checkpoint, bar.update, show, stop)
    if trainer.step == trainer.steps:
        trainer.problem.draw(options.output / "pictures" / f"{name}.png")
    return trainer


def logger(stack: ExitStack, path: Path, trainer: Trainer) -> Callable[[], None]:
    """What writes the last point of a run's curve for tensorboard."""
    from torch.utils.tensorboard import SummaryWriter

    # what a killed run logged beyond its checkpoint is taken back
    calls = trainer.curve["calls"]
    writer = stack.enter_context(SummaryWriter(str(path), purge_step=int(calls[-1]) + 1 if calls else 0))

    def log() -> None:
        for measure in trainer.problem.measures:
            writer.add_scalar(f"{trainer.problem.name}/{measure}", trainer.curve[measure][-1], int(calls[-1]))
        writer.flush()

    return log


def parser(problem: type[Problem], description: str | None, choices: dict[str, list[Any]]) -> argparse.ArgumentParser:
    """The command line: the task's settings, and which runs there are.

    :param choices: of settings that are one of a few
    """
    top = argparse.ArgumentParser(
        prog=f"python -m sb3_relax.tasks.{problem.name}", description=description, formatter_class=HelpFormatter
    )
    kinds = {"str": str, "int": int, "float": float}
    for field in fields(problem.config):
        option, text = f"--{field.name.replace('_', '-')}", field.metadata["help"]
        if field.name == "estimator":
            default = [name for name in problem.cases if name != "exact"]
            top.add_argument(option, nargs="+", choices=list(problem.cases), default=default, help=text + ", see below")
        elif field.name == "seed":
            top.add_argument("--seeds", type=int, default=3, help="runs of every estimator")
            top.add_argument("--first-seed", type=int, default=0, help=f"{text}, in the first of them")
        else:
            kind, names = kinds[str(field.type)], choices.get(field.name)
            top.add_argument(option, type=kind, default=field.default, choices=names, help=text)
    top.add_argument(
        "--output", type=folder, default=problem.name, help="folder for record.json, figures and checkpoints"
    )
    top.add_argument("--tensorboard", action="store_true", help="write the curves for tensorboard as well")
    width = max(map(len, problem.cases)) + 2
    top.epilog = "estimators:\n" + "\n".join(f"  {name:{width}}{text}" for name, text in problem.cases.items())
    return top


def run_command(problem: type[Problem], make: Make, top: argparse.ArgumentParser, arguments: list[str] | None) -> None:
    """Parse and run; errors of the user's making, and what the system refuses, without a traceback."""
    options = top.parse_args(arguments)
    for name in ("seeds", "calls", "batch_size"):
        if getattr(options, name) < 1:
            top.error(f"--{name.replace('_', '-')} must be at least 1; got {getattr(options, name)}")
    if options.calls < options.batch_size:
        top.error(f"--calls must be at least --batch-size, {options.batch_size}, for one step; got {options.calls}")
    if options.first_seed < 0:
        top.error(f"--first-seed must not be negative; got {options.first_seed}")
    for name in (field.name for field in fields(problem.config) if field.name.endswith("learning_rate")):
        if not 0 < getattr(options, name) < math.inf:
            top.error(f"--{name.replace('_', '-')} must be positive; got {getattr(options, name)}")
    prepare_cpu(1)
    try:
        compare(problem, make, options)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        top.exit(2, f"{top.prog}: {error}\n")
    except KeyboardInterrupt:
        top.exit(130, f"{top.prog}: interrupted\n")
