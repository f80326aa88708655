"""What a task is to those who train on it: a model that samples, an f, and what is measured of both."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sb3_relax.estimators import NVIL, Estimate, Estimator, Latent, LayeredEstimate, make
from sb3_relax.tasks.settings import setting

#: names of estimators → what is said of them
CASES = {
    "relax": "a learned control variate of the relaxed sample and the context",
    "nvil": "a learned baseline of the context, and a running mean of f",
    "rloo": "two samples, each the other's baseline: two calls of f",
    "reinforce": "the score function alone",
    "exact": "the ceiling, with every sample visited: as many steps as an estimator of one call has",
}
#: the same for problems whose samples cannot all be visited
WITHOUT_EXACT = {name: text for name, text in CASES.items() if name != "exact"}
#: K, the samples of ARMS
ARMS_SAMPLES = 4
#: width of the hidden layer of learned control variates and baselines
HIDDEN = 64


@dataclass(frozen=True)
class Config:
    """Everything that decides a run's result. A task adds its own settings."""

    estimator: str = setting("relax", "of the gradient at what samples")
    seed: int = setting(0, "of the weights, the noise and the batches")
    calls: int = setting(150_000, "of f in a run")
    batch_size: int = setting(128, "elements of a batch")
    learning_rate: float = setting(1e-2, "of θ's networks, and of φ, the control variate or the baseline (Adam)")

    @property
    def rate_of_phi(self) -> float:
        """The learning rate of φ: ``phi_learning_rate``, where a task has that setting."""
        return float(getattr(self, "phi_learning_rate", self.learning_rate))


class Problem(ABC):
    """Min over θ of E[f(b)]: a model that draws b, and f, which may have parameters of the model as well.

    A subclass is made of its :class:`Config`, and loads its data then.
    """

    #: of the command line and the figures
    name: ClassVar[str]
    #: the settings that it is made of
    config: ClassVar[type[Config]]
    #: names of the estimators that it is for → what is said of them
    cases: ClassVar[Mapping[str, str]] = CASES
    #: what :meth:`measure` gives, each between 0 and 1; the first is what runs are compared by
    measures: ClassVar[tuple[str, ...]]
    #: whether the learning rate falls to 0 along a run, linearly
    decays: ClassVar[bool] = False
    model: nn.Module
    #: how much of the run is over, from 0 to 1: the trainer keeps it
    progress: float = 0.0

    @abstractmethod
    def estimators(self, name: str) -> nn.Module:
        """What :meth:`estimate` takes, made for one name of :attr:`cases`.

        :raises ValueError: where the problem is none for that estimator
        """

    @abstractmethod
    def batch(self, size: int, generator: torch.Generator) -> Any:
        """Elements to learn from."""

    @abstractmethod
    def held_out(self, split: str) -> Any:
        """A batch to measure on, always the same.

        :param split: ``"validation"``, to choose by, or ``"test"``, to report
        """

    @abstractmethod
    def estimate(self, estimators: nn.Module, batch: Any, generator: torch.Generator) -> Estimate | LayeredEstimate:
        """The estimate of one batch's gradient, whose ``backward()`` accumulates it."""

    @abstractmethod
    def measure(self, batch: Any, generator: torch.Generator) -> dict[str, float]:
        """:attr:`measures` of the model: means over a batch, of one sample of each element or of the likeliest one."""

    def outcome(self) -> dict[str, Any]:
        """What else is kept of a run at its end, beside :attr:`measures`: nothing, unless a problem says so."""
        return {}

    @abstractmethod
    def sampling_weights(self) -> Sequence[nn.Parameter]:
        """Weights of the model that f depends on through samples alone: those whose gradient's variance is measured."""

    @property
    def support(self) -> float:
        """Samples that ``exact`` visits for one element of a batch, where it is one of :attr:`cases`."""
        return math.inf

    @abstractmethod
    def draw(self, path: Path) -> None:
        """Write a picture of what the model does, and the folder that it lies in."""


def calls_of(estimators: nn.Module, problem: Problem) -> int:
    """Calls of f for one element of a batch, as the estimators themselves count them.

    :param estimators: one, or one for each of several layers, of one sample each: they share the calls
    """
    first = estimators if isinstance(estimators, Estimator) else next(estimators.children())
    assert isinstance(first, Estimator)
    return int(problem.support if math.isinf(first.evaluations) else first.evaluations)


def estimator_for(name: str, latent: Latent, context: int) -> Estimator:
    """One estimator by a name that :attr:`Problem.cases` may have.

    :param latent: what it is for
    :param context: size of what is known before b is drawn, which learned parts read
    """
    if name == "relax":
        return make(name, latent, context=context, hidden=[HIDDEN])
    if name == "nvil":
        return NVIL(Baseline(context))
    return make(name, latent, samples=ARMS_SAMPLES) if name == "arms" else make(name, latent)


class Baseline(nn.Module):
    """NVIL's C_ψ of the context, ``[..., context]`` → ``[...]``: as wide as RELAX's control variate."""

    def __init__(self, context: int):
        super().__init__()
        output = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(output.weight)
        self.network = nn.Sequential(nn.Linear(context, HIDDEN), nn.Tanh(), output)

    def forward(self, context: Tensor) -> Tensor:
        return self.network(context).squeeze(-1)
