"""Table 1: data set × model × estimator × seed, one record per run in results/vae of the folder that
this is run in.

    python -m scripts.run.vae --iterations 100000 --jobs 2                     # the whole table
    python -m scripts.run.vae --dataset mnist --model linear1 --iterations 500000

The learning rate of each data set, model and estimator is chosen on a seed that is not reported, by the training ELBO
(rates.json): all of ``--rates`` run for the first of ``--tune-iterations``, the better half of them goes on to the next
number, and from there on those that are within a nat of the best. Noise costs little at first and much later, so a
choice after a short run alone would favour high rates. Where the lowest of ``--rates`` wins, the next lower one of the
paper's grid is tried as well.

Stop it at any time and repeat the command: runs continue from their checkpoints (results/vae/checkpoints), which
are written with the record at every evaluation. More ``--iterations`` make runs that are over go on. A run that
diverges (an estimator may, at a high rate) is recorded as such, and loses the choice of the rate.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sb3_relax.tasks.process import prepare_cpu
from sb3_relax.tasks.vae.__main__ import pixels
from sb3_relax.tasks.vae.cases import CASES, build
from sb3_relax.tasks.vae.data import load_dataset
from sb3_relax.tasks.vae.evaluate import Evaluation
from sb3_relax.tasks.vae.model import MODELS
from sb3_relax.tasks.vae.objective import bound
from sb3_relax.tasks.vae.trainer import Config, Trainer
from scripts.records import Records, add_output, provenance, read_record, write_record
from scripts.run.sweep import BACKENDS, in_parallel, run_command

#: the paper's grid
RATES = (0.005, 0.001, 0.0005, 0.0001, 0.00005)
#: of the runs that choose the rates
TUNE_SEED = 1000
#: nats from the best at which a rate may still win
CLOSE = 1.0
CURVE_POINTS = 200
Cell = tuple[str, str, str]


def name_of(config: Config) -> str:
    """Of a run's record and checkpoint."""
    return (
        f"{config.dataset}_{config.model}_{config.estimator}_lr{config.learning_rate:g}_phi{config.phi_rate:g}"
        f"_seed{config.seed}"
    )


def thinned(points: list[Any]) -> list[Any]:
    """At most ``CURVE_POINTS`` of them, the last one among them."""
    step = -(-len(points) // CURVE_POINTS)
    return points[::-1][::step][::-1] if points else []


def record_of(trainer: Trainer, description: str, origin: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run: settings, curve, best values so far."""
    history = trainer.history
    best_train = max(history, key=lambda e: e.train_elbo)
    best_validation = max(history, key=lambda e: e.validation_elbo)
    return {
        **asdict(trainer.config),
        "data": description,
        "iterations": trainer.iteration,
        "seconds": round(trainer.seconds, 1),
        "best_train_elbo": best_train.train_elbo,
        "best_train_iteration": best_train.iteration,
        "best_validation_elbo": best_validation.validation_elbo,
        "best_validation_iteration": best_validation.iteration,
        "curve_keys": list(asdict(history[0])),
        # rounded, to keep the file small; the best values above are not
        "curve": [[round(v, 3) if isinstance(v, float) else v for v in asdict(e).values()] for e in thinned(history)],
        **origin,
    }


def run(config: Config, iterations: int, every: int, records: Records, data_dir: Path | None, final: bool) -> None:
    """One run from its checkpoint to ``iterations``, its record written at every evaluation.

    Of several sweeps in one folder, one has the run, and the others find its record.

    :param final: whether to end with the IWAE bounds
    """
    name = name_of(config)
    with records.claim(name):
        _run(name, config, iterations, every, records, data_dir, final)


def _run(
    name: str, config: Config, iterations: int, every: int, records: Records, data_dir: Path | None, final: bool
) -> None:
    path = records.folder / "checkpoints" / f"{name}.pt"
    try:
        if is_done(records.get(name), iterations, final):
            return  # also where another machine has the checkpoint
        prepare_cpu(1)
        origin = provenance()
        data = load_dataset(config.dataset, data_dir, config.binarisation)
        trainer = Trainer(config, data)
        if path.exists():
            trainer.load(path)

        def write(_: Evaluation) -> None:
            records.write(name, record_of(trainer, data.description, origin))

        trainer.train(iterations, every, path, on_evaluation=write)
        record = record_of(trainer, data.description, origin)
        if final:
            record["iwae_100"] = {
                split: bound(
                    trainer.model,
                    pixels(getattr(data, split), data.binarised),
                    100,
                    torch.Generator().manual_seed(0),
                )
                .mean()
                .item()
                for split in ("validation", "test")
            }
        records.write(name, record)
    except ValueError as error:
        if "must be finite" in str(error):
            record = record_of(trainer, data.description, origin) if trainer.history else {**asdict(config), **origin}
            records.write(name, {**record, "diverged": f"after iteration {trainer.iteration}: {error}"})
        raise


def cell_of(record: dict[str, Any]) -> Cell:
    return record["dataset"], record["model"], record["estimator"]


def is_done(record: dict[str, Any] | None, iterations: int, final: bool) -> bool:
    """Whether a run has come so far, and, where asked, has its IWAE bounds."""
    return record is not None and record.get("iterations", 0) >= iterations and (not final or "iwae_100" in record)


def elbo_at(record: dict[str, Any], iteration: int) -> float | None:
    """Training ELBO of a record at an iteration; ``None`` where it diverged before, or never got there."""
    if "curve" not in record:
        return None
    where, what = (record["curve_keys"].index(key) for key in ("iteration", "train_elbo"))
    elbo = next((point[what] for point in record["curve"] if point[where] == iteration), None)
    return elbo if elbo is not None and math.isfinite(elbo) else None


Elbos = dict[float, float | None]


def ranked(elbos: Elbos) -> list[float]:
    """Rates that lasted, the best first."""
    lasted = {rate: elbo for rate, elbo in elbos.items() if elbo is not None}
    return sorted(lasted, key=lambda rate: -lasted[rate])


def choose(
    measure: Callable[[float, int], float | None], rates: list[float], stages: list[int]
) -> tuple[float | None, dict[int, Elbos]]:
    """The best rate, ``None`` where all diverged; and what was seen after how many iterations.

    :param measure: training ELBO at a rate after so many iterations; ``None`` where it diverged
    :param rates: to begin with
    :param stages: numbers of iterations, rising
    """
    seen: dict[int, Elbos] = {}
    left = rates
    for stage in stages:
        seen[stage] = {rate: measure(rate, stage) for rate in left}
        best = ranked(seen[stage])
        if stage == stages[0]:
            left = best[: -(-len(left) // 2)]
        else:
            left = [rate for rate in best if seen[stage][rate] >= seen[stage][best[0]] - CLOSE]
        if len(left) < 2:
            break
    # the lowest of all won: is a lower one better still?
    while best and best[0] == min(rate for elbos in seen.values() for rate in elbos) > min(RATES):
        lower = max(rate for rate in RATES if rate < best[0])
        seen[stage][lower] = measure(lower, stage)
        best = ranked(seen[stage])
    return (best[0] if best else None), seen


def choices(records: Records) -> dict[str, Any]:
    """The rates that were chosen: data set, model and estimator → rate, and what it was chosen by."""
    path = records.folder / "rates.json"
    return read_record(path) if path.exists() else {}


def with_choice(records: Records, cell: str, choice: dict[str, Any]) -> dict[str, Any]:
    """The rates that were chosen, by other sweeps meanwhile as well, and written with one more."""
    with records.alone():
        rates = {**choices(records), cell: choice}
        write_record(records.folder / "rates.json", rates)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["mnist", "omniglot"])
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--estimator", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=100_000)
    parser.add_argument("--tune-iterations", type=int, nargs="+", default=[5000, 20_000, 50_000])
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES[:3]))
    parser.add_argument("--phi-rate", type=float, default=Config.phi_rate, help="φ's learning rate over θ's")
    parser.add_argument("--compile", action="store_true", help=Config.__dataclass_fields__["compile"].metadata["help"])
    parser.add_argument("--every", type=int, default=5000, help="iterations between evaluations and checkpoints")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--backend", choices=BACKENDS, default="loky", help="of joblib: ray and dask for clusters")
    parser.add_argument("--data-dir", type=Path)
    add_output(parser, "vae/runs.jsonl, vae/rates.json and vae/checkpoints")
    options = parser.parse_args()
    stages = options.tune_iterations
    if any(stage % options.every for stage in stages) or stages != sorted(set(stages)) or stages[0] < 1:
        parser.error("--tune-iterations must be rising multiples of --every")
    if options.seeds > TUNE_SEED:
        parser.error(f"--seeds must be at most {TUNE_SEED}: those from there on choose the rates")

    start = time.perf_counter()
    records = Records(options.output / "vae", curves_by="dataset")
    cells: list[Cell] = []
    for dataset in options.dataset:
        load_dataset(dataset, options.data_dir)  # fails, and fills the cache, before any run starts
        for model in options.model:
            for estimator in options.estimator:
                try:
                    build(estimator, MODELS[model][0], 1)
                except ValueError as error:
                    print(f"left out: {dataset}, {model}: {error}")
                    continue
                cells.append((dataset, model, estimator))

    def config(cell: Cell, rate: float, seed: int) -> Config:
        dataset, model, estimator = cell
        rates = {"learning_rate": rate, "phi_rate": options.phi_rate}
        return Config(dataset, model, estimator, seed=seed, **rates, compile=options.compile)

    def job(cell: Cell, rate: float, seed: int, iterations: int, final: bool) -> tuple[str, tuple[Any, ...]]:
        of = config(cell, rate, seed)
        return name_of(of), (of, iterations, options.every, records, options.data_dir, final)

    def tuning_record(cell: Cell, rate: float) -> dict[str, Any]:
        return records.get(name_of(config(cell, rate, TUNE_SEED))) or {}

    def measured(cell: Cell, rate: float, iterations: int) -> float | None:
        """A run's ELBO; the run itself where there is none."""
        record = tuning_record(cell, rate)
        if elbo_at(record, iterations) is None and "diverged" not in record:
            try:
                run(*job(cell, rate, TUNE_SEED, iterations, final=False)[1])
            except ValueError:
                if "diverged" not in tuning_record(cell, rate):
                    raise
        return elbo_at(tuning_record(cell, rate), iterations)

    def chosen(cell: Cell) -> tuple[float | None, dict[int, Elbos]]:
        return choose(lambda rate, iterations: measured(cell, rate, iterations), options.rates, stages)

    # kept: a choice once made stays what it was when more iterations of the runs are asked for
    rates = choices(records)

    def has_rate(cell: Cell) -> bool:
        return rates.get(" ".join(cell), {}).get("iterations") == stages

    tune = {" ".join(cell): (cell,) for cell in cells if not has_rate(cell)}
    failures = in_parallel(chosen, tune, options.jobs, "learning rates", options.backend)
    for name, (cell,) in tune.items():
        if any(failure.startswith(f"{name}:") for failure in failures):
            continue
        rate, seen = chosen(cell)  # from the records now
        if rate is None:
            print(f"{name}: no learning rate lasted {max(seen):,} iterations")
            continue
        elbos = {str(stage): {f"{rate:g}": elbo for rate, elbo in of_stage.items()} for stage, of_stage in seen.items()}
        rates = with_choice(
            records, name, {"rate": rate, "iterations": stages, "seed": TUNE_SEED, "train_elbos": elbos}
        )
    jobs = [
        job(cell, rates[" ".join(cell)]["rate"], seed, options.iterations, final=True)
        for seed in range(options.seeds)
        for cell in cells
        if has_rate(cell)
    ]

    def pack() -> None:
        """The runs of every cell whose rate is chosen and whose reported runs are over."""
        waiting = {name: cell_of(record) for name, record in records.unpacked().items()}
        over = {cell for cell in {*waiting.values()} & {*cells} if has_rate(cell) and all(map(is_over, names_of(cell)))}
        records.pack(name for name, cell in waiting.items() if cell in over)

    def names_of(cell: Cell) -> list[str]:
        return [name_of(config(cell, rates[" ".join(cell)]["rate"], seed)) for seed in range(options.seeds)]

    def is_over(name: str) -> bool:
        record = records.get(name)
        return is_done(record, options.iterations, final=True) or "diverged" in (record or {})

    pack()  # what a killed sweep left
    failed = in_parallel(run, dict(jobs), options.jobs, "runs", options.backend, after_each=pack)
    print(f"{len(jobs) - len(failed)} of {len(jobs)} runs done in {time.perf_counter() - start:.0f} s")
    if failures or failed:
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(main)
