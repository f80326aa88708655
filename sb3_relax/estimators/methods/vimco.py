"""VIMCO (Mnih and Rezende 2016)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sb3_relax.estimators.base import TwoPhaseEstimator, leave_one_out_mean, require_samples
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import Latent


class VIMCO(TwoPhaseEstimator):
    """The gradient of a K-sample bound L̂ = log 1/K Σ_k w_k, with f = log w.

    ĝ = Σ_k (L̂ - L̂_{-k}) ∂θ log p(b_k|θ), where L̂_{-k} replaces log w_k by the mean of the other log-weights. The direct
    term is Σ_k w̃_k ∂ log w_k with normalised w̃. Another objective than every other estimator's: its target is ∂θ E[L̂].
    When to use it: importance-weighted bounds (Burda et al. 2016). arXiv:1602.06725.

    :param samples: K, at least 2
    :raises ValueError: for fewer

    Example::

        estimate = VIMCO(samples=5)(LogisticBernoulli(logits), log_weight)
    """

    latents = (Latent,)
    samples = 2
    evaluations = 2

    def __init__(self, samples: int = 2):
        super().__init__()
        self.samples = self.evaluations = require_samples(samples)

    def target(self, values: Tensor) -> Tensor:
        return values.logsumexp(0) - math.log(len(values))

    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        bound = self.target(value)
        log_weight = value.detach()
        # [K, K, *batch]: row k holds the log-weights with the k-th replaced
        own = torch.eye(self.samples, dtype=torch.bool, device=value.device)
        own = own.reshape(*own.shape, *(1,) * (value.dim() - 1))
        without = self.target(torch.where(own, leave_one_out_mean(log_weight).unsqueeze(0), log_weight.unsqueeze(1)))
        grad = (expand_to(bound.detach() - without, latent) * latent.score(b)).sum(0)
        return Estimate(latent, bound, grad)
