"""REINFORCE, the score-function estimator (Eq 2; Williams 1992)."""

from __future__ import annotations

import torch
from torch import Tensor

from sb3_relax.estimators.base import Estimate, Estimator, expand_to
from sb3_relax.estimators.latents import Gaussian, GumbelOneHot, Latent, LogisticBernoulli


class Reinforce(Estimator):
    """ĝ = f(b) ∂θ log p(b|θ) (Eq 2). Needs nothing of f but its value; the baseline every other is measured against.

    Example::

        estimate = Reinforce()(LogisticBernoulli(logits), lambda b: (b - 0.499).square().sum(-1))
    """

    unbiased = True
    latents = (LogisticBernoulli, GumbelOneHot, Gaussian)

    def finish(
        self,
        latent: Latent,
        b: Tensor,
        value: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        self._check(latent, value)
        score = latent.score(b)
        return Estimate(latent, value, score, expand_to(value, latent) * score)
