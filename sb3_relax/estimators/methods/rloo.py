"""REINFORCE with a leave-one-out baseline (Kool, van Hoof and Welling 2019)."""

from __future__ import annotations

from torch import Tensor

from sb3_relax.estimators.base import leave_one_out_mean
from sb3_relax.estimators.several_samples import SeveralSamplesEstimator


class RLOO(SeveralSamplesEstimator):
    """ĝ = 1/K Σ_k [f(b_k) - mean_{j≠k} f(b_j)] ∂θ log p(b_k|θ), which is 1/(K-1) Σ_k [f(b_k) - f̄] ∂θ log p(b_k|θ).

    It is VarGrad as well (Richter et al. 2020, arXiv:2010.10436): where f is a log-ratio of densities, this ĝ is the
    derivative of half the variance of f over K samples that are held fixed. ``make("vargrad", q)`` makes it.

    When to use it: K evaluations of a black box, nothing to train, any latent. The baseline to beat.

    :param samples: K, at least 2
    :raises ValueError: for fewer

    Example::

        estimate = RLOO(samples=4)(LogisticBernoulli(logits), f)
    """

    def weights(self, value: Tensor) -> Tensor:
        return (value - leave_one_out_mean(value)) / self.samples
