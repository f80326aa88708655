"""VIMCO (Mnih and Rezende 2016)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sb3_relax.estimators.base import leave_one_out_mean
from sb3_relax.estimators.several_samples import SeveralSamplesEstimator


class VIMCO(SeveralSamplesEstimator):
    """The gradient of a K-sample bound L̂ = log 1/K Σ_k w_k, with f = log w.

    ĝ = Σ_k (L̂ - L̂_{-k}) ∂θ log p(b_k|θ), where L̂_{-k} replaces log w_k by the mean of the other log-weights. The direct
    term is Σ_k w̃_k ∂ log w_k with normalised w̃. Another objective than every other estimator's: its target is ∂θ E[L̂].
    When to use it: importance-weighted bounds (Burda et al. 2016). arXiv:1602.06725.

    :param samples: K, at least 2
    :raises ValueError: for fewer

    Example::

        estimate = VIMCO(samples=5)(LogisticBernoulli(logits), log_weight)
    """

    def target(self, values: Tensor) -> Tensor:
        return values.logsumexp(0) - math.log(len(values))

    def weights(self, value: Tensor) -> Tensor:
        # [K, K, *batch]: row k holds the log-weights with the k-th replaced
        own = torch.eye(self.samples, dtype=torch.bool, device=value.device)
        own = own.reshape(*own.shape, *(1,) * (value.dim() - 1))
        without = self.target(torch.where(own, leave_one_out_mean(value).unsqueeze(0), value.unsqueeze(1)))
        return self.target(value) - without
