"""The exact gradient, by visiting every value of b."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sb3_relax.estimators.base import Estimator
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import GumbelOneHot, KSubset, Latent, LogisticBernoulli, RelaxedLatent
from sb3_relax.estimators.objective import Objective, evaluate


class Exact(Estimator):
    """∂θ E[f(b)] = Σ_b p(b|θ) f(b) ∂θ log p(b|θ), the sum over every b: no variance.

    ``value`` is E[f(b)]. When to use it: supports of a few values (at most ``latents.MAX_SUPPORT``), and tests.

    :raises ValueError: where the support is larger

    Example::

        estimate = Exact()(GumbelOneHot(logits), f)
    """

    latents = (LogisticBernoulli, GumbelOneHot, KSubset)
    samples = 0
    evaluations = math.inf  # the size of the support

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert isinstance(latent, (RelaxedLatent, KSubset))
        fixed = latent.detach()
        support = wide_support(fixed)
        value = evaluate(f, support, torch.Size([len(support), *latent.batch_shape]))
        probability = fixed.log_prob(support).exp()
        grad = (expand_to(probability * value.detach(), latent) * fixed.score(support)).sum(0)
        return Estimate(latent, (probability * value).sum(0), grad)


def wide_support(latent: RelaxedLatent | KSubset) -> Tensor:
    """Every value of b for every element of the batch: ``[M, *batch, *event]``."""
    support = latent.support()
    event = support.shape[1:]
    return support.reshape(len(support), *(1,) * len(latent.batch_shape), *event).expand(
        len(support), *latent.batch_shape, *event
    )
