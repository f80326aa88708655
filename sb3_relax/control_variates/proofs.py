"""What a control variate must pass: its mean is the score function's, shown by enumeration, not by training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch as th

from sb3_relax.control_variates.base import ControlVariate
from sb3_relax.control_variates.centred import CentredAction
from sb3_relax.control_variates.guard import Guarded
from sb3_relax.estimators.estimate import expand_to
from sb3_relax.estimators.proofs.exact import samples_with_probability
from sb3_relax.policy_gradient.policy_view import PolicyOutput


@dataclass(frozen=True)
class Bias:
    """E[ĝ | s] - E[Â ∂θ log π(a|s) | s] at one state, exact over actions, or another mean that must be zero.

    :param difference: per parameter of the action distribution
    :param standard_error: of what remains random, the control variate's own noise; 0 where it draws none
    :param size: the largest part of E[Â ∂θ log π(a|s) | s] or of ĝ, to compare with
    """

    difference: th.Tensor
    standard_error: th.Tensor
    size: float

    @property
    def z_scores(self) -> th.Tensor:
        """Differences in standard errors; rounding alone counts as none."""
        rounding = 1e-9 * max(self.size, 1.0)
        return self.difference / self.standard_error.clamp(min=rounding)

    @property
    def unbiased(self) -> bool:
        """Whether every difference is within five standard errors, or rounding where there is no noise."""
        return bool((self.z_scores.abs() < 5).all())


def measure_bias(
    control_variate: ControlVariate,
    output: PolicyOutput,
    signal: th.Tensor,
    generator: th.Generator,
    n_draws: int = 2_000,
    nodes: int = 40,
) -> Bias:
    """The bias of a control variate at one state, whatever ĉ has learned.

    A guard is taken off: what is unbiased in full is unbiased at every share that was fixed before.

    Every action is visited with its probability (a Gaussian's by Gauss-Hermite quadrature), so that nothing of the
    action is left to chance. Noise that the control variate draws is drawn ``n_draws`` times.

    :param control_variate: in float64 (``.double()``), with weights that matter; it is not trained here. Of an agent
        that goes on training, take that of a :func:`~sb3_relax.algorithm.copies.frozen_copy`
    :param output: a pass of the policy over one step: ``view.evaluate(observations[:1], actions[:1])``
    :param signal: Â of every action, ``[M]``: as many numbers as :func:`actions_of` gives actions
    :param generator: of the control variate's noise
    :param n_draws: of its noise; one is enough where it draws none
    :raises ValueError: for a control variate in less than float64, which could not show it

    Example::

        b, probability = actions_of(output)
        assert measure_bias(variate.double(), output, th.randn(len(b), dtype=th.float64), generator).unbiased
    """
    numbers = [x for x in (*control_variate.parameters(), *control_variate.buffers()) if x.is_floating_point()]
    if any(x.dtype != th.float64 for x in numbers):
        raise ValueError("the control variate must be float64 for this to mean anything: control_variate.double()")
    variate = control_variate.variate if isinstance(control_variate, Guarded) else control_variate
    output = _in_float64(output)
    b, probability = actions_of(output, nodes)
    everything = _repeated(output, b)
    weight = expand_to(probability, everything.latent)
    exact = (weight * expand_to(signal, everything.latent) * everything.latent.score(b)).sum(0)
    draws, size = [], exact.abs().max().item()
    for _ in range(n_draws if variate.draws_noise else 1):
        grad = variate.gradient(everything, signal, generator).grad
        size = max(size, grad.abs().max().item())
        draws.append((weight * grad).sum(0) - exact)
    stacked = th.stack(draws)
    error = stacked.std(0) / math.sqrt(len(draws)) if len(draws) > 1 else th.zeros_like(exact)
    return Bias(stacked.mean(0), error, size)


def measure_mean(
    centred: CentredAction, output: PolicyOutput, generator: th.Generator, n_draws: int = 2_000, nodes: int = 40
) -> Bias:
    """The mean of ã(s, a) over the actions of one state, which must be zero for weights that are anything.

    :param centred: in float64 (``.double()``)
    :param output: a pass of the policy over one step, as in :func:`measure_bias`
    :param generator: of noise that ã's reading draws
    :param n_draws: of that noise; one is enough where there is none
    :param nodes: of Gauss-Hermite quadrature per dimension, for a Gaussian
    :return: the mean as ``difference``, a scalar, with its standard error and the largest ã that was met

    Example::

        assert measure_mean(centred.double(), output, generator).unbiased
    """
    output = _in_float64(output)
    b, probability = actions_of(output, nodes)
    everything = _repeated(output, b)
    draws, size = [], 0.0
    with th.no_grad():
        for _ in range(n_draws if centred.draws_noise else 1):
            of_action = centred(*centred.read(everything, generator))
            size = max(size, of_action.abs().max().item())
            draws.append((probability * of_action).sum())
    stacked = th.stack(draws)
    error = stacked.std(0) / math.sqrt(len(draws)) if len(draws) > 1 else th.zeros_like(stacked[0])
    return Bias(stacked.mean(0), error, size)


def actions_of(output: PolicyOutput, nodes: int = 40) -> tuple[th.Tensor, th.Tensor]:
    """Every action of one state as the latent's b, ``[M, *event]``, and its probability, ``[M]``.

    :param output: a pass of the policy over one step
    :param nodes: of Gauss-Hermite quadrature per dimension, for a Gaussian
    """
    output = _in_float64(output)
    return samples_with_probability(output.latent.select(0), nodes)


def _in_float64(output: PolicyOutput) -> PolicyOutput:
    numbers: dict[str, Any] = {
        name: x.detach().double() for name, x in output._asdict().items() if isinstance(x, th.Tensor)
    }
    return output._replace(latent=output.latent.at(output.latent.theta.detach().double()), **numbers)


def _repeated(output: PolicyOutput, b: th.Tensor) -> PolicyOutput:
    """One step's output for each of ``b``."""
    return output.at(th.zeros(len(b), dtype=th.int64))._replace(sample=b)
