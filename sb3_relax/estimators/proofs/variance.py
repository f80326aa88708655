"""Variance of a gradient estimate."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from sb3_relax.estimators.base import Estimator
from sb3_relax.estimators.latents import Latent, require_unbatched
from sb3_relax.estimators.objective import Objective


class VarianceEstimate(NamedTuple):
    """A variance and how well it is known."""

    variance: float  #: Σ_i Var(ĝ_i)
    standard_error: float


def gradient_variance(
    estimator: Estimator,
    latent: Latent,
    f: Objective,
    n: int = 10_000,
    generator: torch.Generator | None = None,
    chunk: int = 1_000,
) -> VarianceEstimate:
    """Σ_i Var(ĝ_i) of one estimate, over n independent ones at the same θ, with its standard error.

    Over samples and summed over components, never across the components of one gradient, nor across steps of training.

    :param latent: a latent without batch; for a batch, one of its elements
    :param f: as the estimator calls it, with one batch dimension
    :param n: number of estimates, at least 2
    :param chunk: estimates at a time
    :raises ValueError: for a latent with a batch, or n below 2

    Example::

        variance, error = gradient_variance(RLOO(), LogisticBernoulli(torch.zeros(10)), f, n=20_000)
    """
    require_unbatched(latent)
    if n < 2:
        raise ValueError(f"n must be at least 2; got {n}")
    parts = []
    for start in range(0, n, chunk):
        wide = latent.detach().expand(min(chunk, n - start))
        parts.append(estimator(wide, f, generator).grad.flatten(1).double())
    grad = torch.cat(parts)
    deviation = (grad - grad.mean(0)).square().sum(1)
    return VarianceEstimate(deviation.sum().item() / (n - 1), deviation.std().item() / math.sqrt(n))
