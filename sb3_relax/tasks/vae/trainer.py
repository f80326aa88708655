"""One step, and the loop around it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sb3_relax.tasks.settings import key, setting
from sb3_relax.tasks.vae import checkpoint, distributed
from sb3_relax.tasks.vae.cases import build
from sb3_relax.tasks.vae.data import Dataset
from sb3_relax.tasks.vae.evaluate import Evaluation, evaluate
from sb3_relax.tasks.vae.model import DiscreteVAE
from sb3_relax.tasks.vae.objective import accumulate_gradient, binarise

#: weight of the newest batch in the running mean of f
SHIFT_RATE = 0.01


@dataclass(frozen=True)
class Config:
    """Everything that decides a run's result but its length."""

    dataset: str = setting("digits", "images to train on; digits needs no download")
    model: str = setting("linear1", "linear1, linear2: one or two stochastic layers; nonlinear: one, by tanh networks")
    estimator: str = setting("relax", "of the encoder's gradient, see below")
    seed: int = setting(0, "of the weights, the noise and the order of the images")
    learning_rate: float = setting(1e-3, "of θ's networks (Adam)")
    phi_rate: float = setting(1.0, "φ's learning rate over θ's; the paper tried 1 and 10")
    weight_decay: float = setting(
        1e-3, "of the networks among φ (Adam's, added to the gradient); the paper tried .001, .0001"
    )
    batch_size: int = setting(24, "images an iteration, shared by the processes")
    beta2: float = setting(0.99999, "Adam's, as in the authors' code")
    binarisation: str = setting("fixed", "pixels' bits drawn of their intensities once (fixed) or anew each time")
    units: int = setting(200, "bits of a stochastic layer, and width of the hidden layers")
    compile: bool = setting(
        False,
        "the gradient as one compiled graph: the same to rounding, faster after a minute; a CPU needs a C++ compiler",
    )

    def require_valid(self) -> None:
        """Refuse numbers no run could use.

        :raises ValueError: naming the first
        """
        for name in ("learning_rate", "phi_rate", "batch_size", "units"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        for name in ("weight_decay", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"beta2 must be in [0, 1); got {self.beta2}")


class Trainer:
    """A run: model, estimators, optimizer and the iteration they are at.

    The noise of an iteration is drawn from a generator seeded by (seed, iteration, process), the order of the data by
    (seed, epoch). So the iteration is all there is to know of both, and a run that continues from a checkpoint is bit
    for bit the run that never stopped, on the same machine, number of threads and processes (where it is compiled, as
    long as the compiler makes the same of it, which on a GPU it may not).

    :param config: the settings
    :param data: the data set
    :param device: where to train
    :param worker: which of how many processes this is; each takes its share of every batch
    :raises ValueError: for settings that cannot be, a batch larger than the training set, one that the processes
        cannot share evenly, or ``compile`` without a compiler
    """

    def __init__(
        self,
        config: Config,
        data: Dataset,
        device: torch.device | str = "cpu",
        worker: distributed.Worker | None = None,
    ):
        config.require_valid()
        self.config = config
        self.device = torch.device(device)
        self.worker = worker or distributed.Worker()
        if config.batch_size % self.worker.processes:
            raise ValueError(
                f"a batch of {config.batch_size} cannot be shared by {self.worker.processes} processes evenly"
            )
        self.train_x, self.validation_x = (x.to(self.device) for x in (data.train, data.validation))
        if len(self.train_x) < config.batch_size:
            raise ValueError(f"{data.name} has {len(self.train_x)} training examples: too few for a batch")
        self.binarised = data.binarised
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = DiscreteVAE.of(config.model, data.train.mean(0), config.units).to(self.device)
            self.estimators = build(config.estimator, self.model.layers, config.units).to(self.device)
        self.optimizer = self._optimizer()
        self._accumulate_gradient: Callable[[Tensor, torch.Generator, Tensor], Tensor]
        if config.compile:
            # here, as what it needs of torch takes as long to import as all the rest
            from sb3_relax.tasks.vae.compiled import CompiledGradient, require_compiler

            require_compiler(self.device)
            self._accumulate_gradient = CompiledGradient(self.model, self.estimators)
        else:
            self._accumulate_gradient = partial(accumulate_gradient, self.model, self.estimators)
        self.iteration = 0
        self.shift = torch.zeros((), device=self.device)  # running mean of f over earlier batches
        self.elbo_sum = torch.zeros((), device=self.device, dtype=torch.float64)  # since the last evaluation
        self.history: list[Evaluation] = []
        self.seconds = 0.0  # of training, evaluations left out
        self._generator = torch.Generator(self.device)
        self._order = (-1, torch.empty(0))

    def _optimizer(self) -> torch.optim.Adam:
        config, rate = self.config, self.config.learning_rate * self.config.phi_rate
        phi = list(self.estimators.parameters())
        # η, log τ and other gains are numbers with a meaning: no decay
        networks = [p for p in phi if p.dim() > 0]
        gains = [p for p in phi if p.dim() == 0]
        groups: list[dict[str, Any]] = [{"params": list(self.model.parameters()), "maximize": True}]
        if networks:
            groups.append({"params": networks, "lr": rate, "weight_decay": config.weight_decay})
        if gains:
            groups.append({"params": gains, "lr": rate})
        return torch.optim.Adam(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)

    def batch(self, iteration: int) -> Tensor:
        """This process's share of the pixels of one iteration, grey where binarisation is dynamic."""
        size = self.config.batch_size
        epoch, position = divmod(iteration, len(self.train_x) // size)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(key("order", self.config.seed, epoch))
            order = torch.randperm(len(self.train_x), generator=generator)
            self._order = (epoch, order.to(self.device))
        share = size // self.worker.processes
        start = position * size + self.worker.rank * share
        return self.train_x.index_select(0, self._order[1][start : start + share])

    def step(self) -> None:
        """One iteration: estimate, average over processes, update θ's networks uphill and φ downhill on Eq 6."""
        x = self.batch(self.iteration)
        generator = self._generator.manual_seed(key("noise", self.config.seed, self.iteration, self.worker.rank))
        if not self.binarised:
            x = binarise(x, generator)
        self.optimizer.zero_grad()
        centred = self._accumulate_gradient(x, generator, self.shift).mean()
        distributed.average([*self._gradients(), centred, *running_statistics(self.estimators)], self.worker)
        self.optimizer.step()
        self.elbo_sum += centred + self.shift
        self.shift.add_(centred, alpha=max(SHIFT_RATE, 1 / (self.iteration + 1)))
        self.iteration += 1

    def _gradients(self) -> list[Tensor]:
        parameters = [*self.model.parameters(), *self.estimators.parameters()]
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    def train(
        self,
        iterations: int,
        every: int = 5000,
        path: Path | None = None,
        on_step: Callable[[], object] | None = None,
        on_evaluation: Callable[[Evaluation], object] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        """Go on until ``iterations``; every so many, and at the end, evaluate and write a checkpoint.

        :param iterations: of the whole run, those before a checkpoint included
        :param every: iterations between evaluations
        :param path: of the checkpoint; ``None``: none
        :param on_step: called after every iteration
        :param on_evaluation: called after every evaluation, once the checkpoint is written
        :param stop: asked after every iteration; where it says yes, the checkpoint is written and the run ends there
        """
        if every < 1:
            raise ValueError(f"every must be at least 1; got {every}")
        while True:
            due = self.iteration % every == 0 or self.iteration == iterations
            # a checkpoint may lie at an evaluation, or between two
            if due and not (self.history and self.history[-1].iteration == self.iteration):
                self._evaluate(path, on_evaluation)
            if self.iteration >= iterations:
                return
            if stop is not None and stop():
                if path is not None:
                    self.save(path)
                return
            start = time.perf_counter()
            for _ in range(min(every - self.iteration % every, iterations - self.iteration)):
                self.step()
                if on_step is not None:
                    on_step()
                if stop is not None and stop():
                    break
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - start

    def _evaluate(self, path: Path | None, on_evaluation: Callable[[Evaluation], object] | None) -> None:
        # by the first process alone: the model is the same in all, and the others wait in the next all-reduce
        if self.worker.rank == 0:
            steps = self.iteration - (self.history[-1].iteration if self.history else 0)
            evaluation = evaluate(self, self.elbo_sum.item() / steps if steps else None)
            self.history.append(evaluation)
        self.elbo_sum.zero_()
        if self.worker.rank == 0:
            if path is not None:
                self.save(path)
            if on_evaluation is not None:
                on_evaluation(evaluation)

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        checkpoint.save(
            path,
            {
                "config": asdict(self.config),
                "processes": self.worker.processes,
                "iteration": self.iteration,
                "model": self.model.state_dict(),
                "estimators": self.estimators.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "shift": self.shift,
                "elbo_sum": self.elbo_sum,
                "history": [asdict(evaluation) for evaluation in self.history],
                "seconds": self.seconds,
            },
        )

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        :raises ValueError: for one of other settings, naming each that differs
        """
        state = checkpoint.load(path, self.device)
        require_same(path, state, self.config, self.worker.processes)
        self.iteration = state["iteration"]
        self.model.load_state_dict(state["model"])
        self.estimators.load_state_dict(state["estimators"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.shift = state["shift"]
        # earlier versions wrote at evaluations alone, where it is 0
        self.elbo_sum = state.get("elbo_sum", self.elbo_sum)
        self.history = [Evaluation(**evaluation) for evaluation in state["history"]]
        self.seconds = state["seconds"]


def require_same(path: Path, state: dict[str, Any], config: Config, processes: int) -> None:
    """Refuse a checkpoint of other settings.

    :raises ValueError: naming each setting that differs
    """
    # what earlier versions did not know was at its default
    was = {**asdict(Config()), **state["config"], "processes": state["processes"]}
    now = {**asdict(config), "processes": processes}
    different = [f"{name} {was.get(name)} (now {now[name]})" for name in now if was.get(name) != now[name]]
    if different:
        raise ValueError(f"{path} is of a run with {', '.join(different)}; use the same, or another folder")


def running_statistics(estimators: nn.Module) -> list[Tensor]:
    """What estimators remember of earlier batches beside φ (NVIL's mean and variance)."""
    return [buffer for buffer in estimators.buffers() if buffer.is_floating_point()]


def config_of(arguments: dict[str, Any]) -> Config:
    """The settings among more arguments than those."""
    return Config(**{field.name: arguments[field.name] for field in fields(Config) if field.name in arguments})
