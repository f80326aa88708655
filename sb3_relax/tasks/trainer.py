"""One run of a :class:`~sb3_relax.tasks.problem.Problem`: the steps, the curve, and the variance at two states."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sb3_relax.tasks import checkpoint
from sb3_relax.tasks.problem import Config, Problem, calls_of
from sb3_relax.tasks.settings import key

#: parts of a run, after each of which it is measured
PARTS = 30
#: after so many of them the variance is measured
STATES = {"early": PARTS // 10, "late": PARTS}
#: gradients behind a variance, of the same batch of so many elements
REPEATS, VARIANCE_BATCH = 128, 128
#: the estimator that others are compared with
ONLOOKER = "nvil"


class Trainer:
    """A run: a problem's model, its estimators, and the step they are at.

    NVIL looks on: at every step it learns from the same batch, and moves nothing but itself. So the variance of the
    run's estimator is compared with NVIL's at the same states of the model.

    All randomness of a step is a function of (seed, step). So a run that continues from a checkpoint is bit for bit the
    run that never stopped, on the same machine and number of threads.

    :param config: the settings
    :param make: makes the problem; its weights are drawn by the seed
    """

    def __init__(self, config: Config, make: Callable[[Config], Problem]):
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.problem = make(config)
            self.estimators = self.problem.estimators(config.estimator)
            self.onlooker = self.problem.estimators(ONLOOKER)
        self.calls = calls_of(self.estimators, self.problem)
        # the ceiling has as many steps as an estimator of one call
        budgeted = 1 if config.estimator == "exact" else self.calls
        self.steps = max(config.calls // (config.batch_size * budgeted), 1)
        self.optimizer = self._adam([(self.problem.model, config.learning_rate), (self.estimators, config.rate_of_phi)])
        self.onlooking = self._adam([(self.onlooker, config.rate_of_phi)])
        self.validation = self.problem.held_out("validation")
        self.step = 0
        self.curve: dict[str, list[float]] = {name: [] for name in ("calls", *self.problem.measures)}
        self.variances: dict[str, dict[str, float]] = {}
        self._generator = torch.Generator()

    def _adam(self, rates: list[tuple[nn.Module, float]]) -> torch.optim.Adam:
        groups = [{"params": list(module.parameters()), "lr": rate} for module, rate in rates]
        return torch.optim.Adam(groups, fused=True)

    def train(
        self,
        path: Path | None = None,
        on_step: Callable[[], object] | None = None,
        on_measure: Callable[[], object] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        """Go on until the last step; measure after every part of the run, and write a checkpoint.

        :param path: of the checkpoint; ``None``: none
        :param on_step: called after every step
        :param on_measure: called after every measurement
        :param stop: asked after every step but the last; where it says yes, the checkpoint is written, and the run ends
            there
        """
        moments = [round(part * self.steps / PARTS) for part in range(PARTS + 1)]
        while True:
            self._keep_progress()
            while len(self.curve["calls"]) <= PARTS and self.step == moments[len(self.curve["calls"])]:
                self._measure()
                if on_measure is not None:
                    on_measure()
                if path is not None:
                    self.save(path)
            if self.step >= self.steps:
                return
            self._step()
            if on_step is not None:
                on_step()
            if stop is not None and self.step < self.steps and stop():  # a run that is over is measured first
                if path is not None:
                    self.save(path)
                return

    def _keep_progress(self) -> None:
        """The problem knows how much of the run is over, and the learning rates fall with it where they fall."""
        self.problem.progress = self.step / self.steps
        if self.problem.decays:
            of_theta, *of_phi = [*self.optimizer.param_groups, *self.onlooking.param_groups]
            of_theta["lr"] = self.config.learning_rate * (1 - self.problem.progress)
            for group in of_phi:
                group["lr"] = self.config.rate_of_phi * (1 - self.problem.progress)

    def _step(self) -> None:
        """Estimate; θ downhill, φ downhill on its own objective; NVIL looks on."""
        generator = self._generator.manual_seed(key("batch", self.config.seed, self.step))
        batch = self.problem.batch(self.config.batch_size, generator)
        noise = torch.Generator().manual_seed(key("onlooker", self.config.seed, self.step))
        self.onlooking.zero_grad()
        self.problem.estimate(self.onlooker, batch, noise).backward()
        self.onlooking.step()
        self.optimizer.zero_grad()  # what the onlooker has left at the model included
        self.problem.estimate(self.estimators, batch, generator).backward()
        self.optimizer.step()
        self.step += 1

    def _measure(self) -> None:
        """A point of the curve, and the variance where it is due."""
        part = len(self.curve["calls"])
        for name, at in STATES.items():
            if part == at:
                self.variances[name] = {
                    "own": self.calls * self._variance(self.estimators),
                    ONLOOKER: self._variance(self.onlooker),
                }
        measured = self.problem.measure(self.validation, torch.Generator().manual_seed(0))
        self.curve["calls"].append(self.step * self.config.batch_size * self.calls)
        for name, value in measured.items():
            self.curve[name].append(round(value, 5))

    def _variance(self, estimators: nn.Module) -> float:
        """Σ_i Var(g_i) of one fixed batch's gradient over repeated noise, summed over the weights that sample."""
        generator = torch.Generator().manual_seed(0)
        batch = self.problem.batch(VARIANCE_BATCH, generator)
        gradients = []
        for _ in range(REPEATS):
            self.optimizer.zero_grad()
            # anew each time: what it remembers of earlier batches must not be this very batch
            self.problem.estimate(copy.deepcopy(estimators), batch, generator).backward()
            gradients.append(
                torch.cat([w.grad.flatten() for w in self.problem.sampling_weights() if w.grad is not None])
            )
        self.optimizer.zero_grad()
        return torch.stack(gradients).double().var(0).sum().item()

    def result(self) -> dict[str, Any]:
        """What is kept of a run: settings, curve, measures on the test split, variance at equal calls of f, outcome."""
        test = self.problem.measure(self.problem.held_out("test"), torch.Generator().manual_seed(0))
        measured = {"curve": self.curve, "test": test, "variance": self.variances}
        return {**asdict(self.config), **measured, **self.problem.outcome()}

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {
            "model": self.problem.model,
            "estimators": self.estimators,
            "onlooker": self.onlooker,
            "optimizer": self.optimizer,
            "onlooking": self.onlooking,
        }

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        own = {"config": asdict(self.config), "step": self.step, "curve": self.curve, "variances": self.variances}
        checkpoint.save(path, {**state, **own})

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        :raises ValueError: for one that is damaged, of other settings, or of a version whose parts were others
        """
        parts = self._parts()
        state = checkpoint.load(path, {*parts, "config", "step", "curve", "variances"})
        if state["config"] != asdict(self.config):
            raise ValueError(f"{path} is of a run with other settings; delete it to start anew")
        try:
            for name, part in parts.items():
                part.load_state_dict(state[name])
        except (RuntimeError, ValueError) as error:  # modules raise the one, optimizers the other
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path} is of another version ({reason}); delete it to start anew") from error
        self.step, self.curve, self.variances = state["step"], state["curve"], state["variances"]
