"""What is measured of a run, with noise of its own, so that looking does not change what is seen."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sb3_relax.tasks.vae.model import DiscreteVAE
from sb3_relax.tasks.vae.objective import binarise, bound, estimate_gradient

#: training examples that every evaluation sees, the same ones
TRAIN_SUBSET = 10_000
#: gradients of one minibatch behind their variance
REPEATS = 32


@dataclass(frozen=True)
class Evaluation:
    """One point of a run's curves. ELBOs are in nats an example, with bits (also for estimators that relax them)."""

    iteration: int
    running_elbo: float | None  #: mean of f over the batches since the last evaluation, as the estimator saw it
    train_elbo: float  #: on a fixed subset of the training set, with fixed noise
    validation_elbo: float  #: on the whole validation set, with fixed noise
    gradient_log_variance: float  #: of one minibatch's gradient, see :func:`gradient_log_variance`
    seconds: float  #: of training so far


class Run(Protocol):
    """What is read of a run, as its trainer has it."""

    device: torch.device
    config: Any
    model: DiscreteVAE
    estimators: nn.ModuleList
    shift: Tensor
    train_x: Tensor
    validation_x: Tensor
    binarised: bool
    iteration: int
    seconds: float


def evaluate(trainer: Run, running: float | None = None) -> Evaluation:
    """The next point of a run's curves."""
    generator = torch.Generator(trainer.device).manual_seed(0)

    def elbo(x: Tensor) -> float:
        if not trainer.binarised:
            x = binarise(x, generator)
        return bound(trainer.model, x, 1, generator).double().mean().item()

    x = trainer.train_x[: trainer.config.batch_size].round()
    return Evaluation(
        trainer.iteration,
        running,
        elbo(trainer.train_x[:TRAIN_SUBSET]),
        elbo(trainer.validation_x),
        gradient_log_variance(trainer.model, trainer.estimators, x, trainer.shift, REPEATS, generator),
        round(trainer.seconds, 2),
    )


def gradient_log_variance(
    model: DiscreteVAE,
    estimators: nn.ModuleList,
    x: Tensor,
    shift: Tensor,
    repeats: int = REPEATS,
    generator: torch.Generator | None = None,
) -> float:
    """log Σ_i Var(g_i), g the encoder's gradient of one fixed minibatch as a training step would take it.

    Over repeated noise at the current θ, summed over the encoder's weights: never across components or steps.

    :param x: the minibatch, ``[B, D]``, bits
    :param repeats: number of gradients
    """
    model = copy.deepcopy(model)  # the run's gradients must not notice
    weights = list(model.encoders.parameters())
    total: Tensor | None = None
    square: Tensor | None = None
    first: Tensor | None = None
    for _ in range(repeats):
        model.zero_grad()
        # anew each time: a mean of f learned on this very minibatch would flatter NVIL
        estimate_gradient(model, copy.deepcopy(estimators), x, generator, shift).backward()
        g = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None]).double()
        if first is None or total is None or square is None:
            first, total, square = g, torch.zeros_like(g), torch.zeros_like(g)
        total += g - first  # moments about a sample: no cancellation
        square += (g - first).square()
    assert total is not None
    assert square is not None
    variance = (square - total.square() / repeats).sum().item() / (repeats - 1)
    return math.log(max(variance, 1e-30))
