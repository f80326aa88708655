"""REINFORCE with a leave-one-out baseline (Kool, van Hoof and Welling 2019)."""

from __future__ import annotations

from torch import Tensor

from sb3_relax.estimators.base import TwoPhaseEstimator, leave_one_out_mean, require_samples
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import Latent


class RLOO(TwoPhaseEstimator):
    """ĝ = 1/K Σ_k [f(b_k) - mean_{j≠k} f(b_j)] ∂θ log p(b_k|θ), which is 1/(K-1) Σ_k [f(b_k) - f̄] ∂θ log p(b_k|θ).

    When to use it: K evaluations of a black box, nothing to train, any latent. The baseline to beat.

    :param samples: K, at least 2
    :raises ValueError: for fewer

    Example::

        estimate = RLOO(samples=4)(LogisticBernoulli(logits), f)
    """

    latents = (Latent,)
    samples = 2
    evaluations = 2

    def __init__(self, samples: int = 2):
        super().__init__()
        self.samples = self.evaluations = require_samples(samples)

    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        weight = value.detach() - leave_one_out_mean(value.detach())
        return Estimate(latent, value.mean(0), (expand_to(weight, latent) * latent.score(b)).mean(0))
