"""Train, evaluate and sample from the discrete VAE.

    python -m sb3_relax.tasks.vae train --dataset digits --model linear1 --estimator relax --iterations 2000
    python -m sb3_relax.tasks.vae evaluate --output vae
    python -m sb3_relax.tasks.vae sample --output vae
    torchrun --nproc-per-node 2 -m sb3_relax.tasks.vae train ...

``train`` writes OUTPUT/checkpoint.pt, tensorboard's events and images, and goes on from the checkpoint where there is
one: repeat the command after Ctrl-C or a crash, or with more iterations. The other two read the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sb3_relax.tasks.arguments import HelpFormatter, folder
from sb3_relax.tasks.process import Stop, claim, prepare_cpu
from sb3_relax.tasks.records import write_record
from sb3_relax.tasks.vae import checkpoint, distributed
from sb3_relax.tasks.vae.cases import CASES
from sb3_relax.tasks.vae.data import BINARISATIONS, DATASETS, Dataset, load_dataset
from sb3_relax.tasks.vae.evaluate import Evaluation
from sb3_relax.tasks.vae.images import reconstructions, samples, write_png
from sb3_relax.tasks.vae.model import MODELS, DiscreteVAE
from sb3_relax.tasks.vae.objective import binarise, bound
from sb3_relax.tasks.vae.trainer import Config, Trainer, config_of

CHECKPOINT = "checkpoint.pt"
CHOICES: dict[str, list[str]] = {
    "dataset": list(DATASETS),
    "model": list(MODELS),
    "estimator": list(CASES),
    "binarisation": list(BINARISATIONS),
}


def load(config: Config, options: argparse.Namespace) -> Dataset:
    return load_dataset(config.dataset, options.data_dir, config.binarisation, options.cache_dir)


def train(options: argparse.Namespace) -> None:
    """Train until --iterations, from the checkpoint where there is one."""
    device = distributed.local_device(options.device)
    worker = distributed.start(device)
    config = config_of(vars(options))
    data = load(config, options)
    trainer = Trainer(config, data, device, worker)
    path = options.output / CHECKPOINT
    with claim(options.output) if worker.rank == 0 else nullcontext():
        distributed.wait_for_all(worker)  # none reads a checkpoint that another run may still write
        if path.exists():
            trainer.load(path)
        if worker.rank == 0:
            train_and_log(trainer, data, options)
        else:
            trainer.train(options.iterations, options.every)
        distributed.wait_for_all(worker)
    if worker.rank == 0:
        print(json.dumps(asdict(trainer.history[-1])))


def train_and_log(trainer: Trainer, data: Dataset, options: argparse.Namespace) -> None:
    """Train with checkpoints, tensorboard and a progress bar.

    :raises SystemExit: where a signal stopped it
    """
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    # what a killed run logged beyond its checkpoint is taken back
    writer = SummaryWriter(str(options.output / "tensorboard"), purge_step=trainer.iteration + 1)
    bar = tqdm(total=options.iterations, initial=trainer.iteration, unit="it", desc=trainer.config.estimator)

    def log(evaluation: Evaluation) -> None:
        iteration = evaluation.iteration
        for name, value in asdict(evaluation).items():
            if name != "iteration" and value is not None:
                writer.add_scalar(f"vae/{name}", value, iteration)
        writer.add_image("samples", samples(trainer.model, data.shape, 64), iteration, dataformats="HW")
        x = pixels(trainer.validation_x[:32], data.binarised)
        writer.add_image("reconstructions", reconstructions(trainer.model, x, data.shape), iteration, dataformats="HW")
        writer.flush()
        bar.set_postfix(train=f"{evaluation.train_elbo:.2f}", validation=f"{evaluation.validation_elbo:.2f}")

    # several processes could stop at different iterations, and wait for each other forever: they die of a signal
    with Stop() if trainer.worker.processes == 1 else nullcontext() as stop, bar, writer:
        trainer.train(options.iterations, options.every, options.output / CHECKPOINT, bar.update, log, stop)
    if stop is not None and stop.signal is not None and trainer.iteration < options.iterations:
        print(f"stopped at iteration {trainer.iteration}; the same command goes on from there", file=sys.stderr)
        raise SystemExit(128 + stop.signal)


class Restored(NamedTuple):
    """What a checkpoint has, and its data."""

    config: Config
    iteration: int
    model: DiscreteVAE
    data: Dataset


def restore(options: argparse.Namespace) -> Restored:
    """:raises FileNotFoundError: where there is no checkpoint"""
    path = options.output / CHECKPOINT
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; train first, or name the run's folder with --output")
    device = distributed.local_device(options.device)
    state = checkpoint.load(path, device)
    config = Config(**state["config"])
    data = load(config, options)
    model = DiscreteVAE.of(config.model, data.train.mean(0), config.units).to(device)
    model.load_state_dict(state["model"])
    return Restored(config, state["iteration"], model, data)


def pixels(x: torch.Tensor, binarised: bool, seed: int = 0) -> torch.Tensor:
    """Bits, drawn with a fixed seed where the data are grey."""
    return x if binarised else binarise(x, torch.Generator(x.device).manual_seed(seed))


def evaluate(options: argparse.Namespace) -> None:
    """ELBO and IWAE bound of a split, with their standard errors over examples."""
    config, iteration, model, data = restore(options)
    x = pixels(getattr(data, options.split).to(model.prior.device), data.binarised)
    generator = torch.Generator(x.device).manual_seed(options.noise_seed)
    result: dict[str, Any] = {"iteration": iteration, "split": options.split, "examples": len(x)}
    for name, count in (("elbo", 1), (f"iwae_{options.samples}", options.samples)):
        values = bound(model, x, count, generator).double()
        result[name] = values.mean().item()
        result[f"{name}_standard_error"] = values.std().item() / len(values) ** 0.5
    print(json.dumps(result))
    write_record(options.output / f"evaluation_{options.split}.json", {**result, **asdict(config)})


def sample(options: argparse.Namespace) -> None:
    """samples.png and reconstructions.png."""
    _, _, model, data = restore(options)
    generator = torch.Generator(model.prior.device).manual_seed(options.noise_seed)
    write_png(options.output / "samples.png", samples(model, data.shape, options.count, generator))
    x = pixels(data.validation[: options.count].to(model.prior.device), data.binarised)
    write_png(options.output / "reconstructions.png", reconstructions(model, x, data.shape, generator))
    print(options.output / "samples.png", options.output / "reconstructions.png")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m sb3_relax.tasks.vae", description=__doc__, formatter_class=HelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--output", type=folder, default="vae", help="the run's folder")
    common.add_argument(
        "--data-dir", type=Path, help="with the data sets' files (default: SB3_RELAX_DATA, else downloads)"
    )
    common.add_argument(
        "--cache-dir", type=Path, help="for downloads and prepared images (default: the system's folder for caches)"
    )
    common.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    common.add_argument("--threads", type=int, default=1, help="of one process, on a CPU")

    def add(run: Callable[[argparse.Namespace], None], *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(
            run.__name__,
            parents=[common, *parents],
            help=run.__doc__,
            description=run.__doc__,
            formatter_class=HelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    command = add(train)
    width = max(map(len, CASES)) + 2
    command.epilog = "estimators:\n" + "\n".join(f"  {name:{width}}{case.description}" for name, case in CASES.items())
    kinds = {"str": str, "int": int, "float": float}
    for field in fields(Config):
        option, text = f"--{field.name.replace('_', '-')}", field.metadata["help"]
        if field.type == "bool":
            command.add_argument(option, action="store_true", help=text)
            continue
        command.add_argument(
            option,
            type=kinds[str(field.type)],
            default=field.default,
            choices=CHOICES.get(field.name),
            help=text,
        )
    command.add_argument("--iterations", type=int, default=100_000, help="of the whole run")
    command.add_argument("--every", type=int, default=5000, help="iterations between evaluations and checkpoints")

    noise = argparse.ArgumentParser(add_help=False)
    noise.add_argument("--noise-seed", type=int, default=0, help="of the samples that are drawn")
    command = add(evaluate, noise)
    command.add_argument("--split", choices=["train", "validation", "test"], default="validation", help="which images")
    command.add_argument("--samples", type=int, default=100, help="K of the IWAE bound")
    command = add(sample, noise)
    command.add_argument("--count", type=int, default=64, help="images in each file")
    return top


def main(arguments: list[str] | None = None) -> None:
    """Parse and run; errors of the user's making, and what the system refuses, without a traceback."""
    top = parser()
    options = top.parse_args(arguments)
    for name in ("threads", "iterations", "every", "samples", "count"):
        if getattr(options, name, 1) < 1:
            top.error(f"--{name} must be at least 1; got {getattr(options, name)}")
    prepare_cpu(options.threads)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        top.exit(2, f"{top.prog}: {error}\n")
    except KeyboardInterrupt:
        top.exit(130, f"{top.prog}: interrupted\n")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
