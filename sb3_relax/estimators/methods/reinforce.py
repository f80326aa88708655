"""REINFORCE, the score-function estimator (Eq 2; Williams 1992)."""

from __future__ import annotations

from torch import Tensor

from sb3_relax.estimators.base import TwoPhaseEstimator
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import Latent


class Reinforce(TwoPhaseEstimator):
    """ĝ = f(b) ∂θ log p(b|θ) (Eq 2).

    Needs nothing of f but its value, and takes every latent: what every other estimator is measured against.
    When not: whenever f can be called twice (RLOO), or a control variate can be learned (RELAX).

    Example::

        estimate = Reinforce()(LogisticBernoulli(logits), lambda b: (b - 0.499).square().sum(-1))
    """

    latents = (Latent,)

    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        score = latent.score(b)
        return Estimate(latent, value, expand_to(value.detach(), latent) * score, score=score)
