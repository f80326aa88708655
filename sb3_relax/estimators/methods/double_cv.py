"""Double control variates (Titsias and Shi 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sb3_relax.estimators.base import Estimator, leave_one_out_mean, require_samples
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.functions import Objective, evaluate_with_slope
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent


class DoubleCV(Estimator):
    """ĝ = mean_k (h_k - mean_{j≠k} h_j) ∂θ log p(b_k|θ) - α ḡ·∂θ μ, with h_k = f(b_k) + α ḡ_{-k}·(b_k - μ).

    ḡ is the mean of ∇f(b_k), ḡ_{-k} that of the other samples: a leave-one-out baseline whose f is itself corrected by
    its linear part (α = -1 removes a linear f whole). α is learned. For one-hots as well, where the paper has bits.
    When to use it: K evaluations of a differentiable f. arXiv:2111.05300.

    :param samples: K, at least 2
    :param scale: α at the start
    :raises ValueError: for fewer samples

    Example::

        estimate = DoubleCV(samples=2)(LogisticBernoulli(logits), f)
    """

    needs_grad_f = True
    latents = (LogisticBernoulli, GumbelOneHot)
    samples = 2
    evaluations = 2

    def __init__(self, samples: int = 2, scale: float = -1.0):
        super().__init__()
        self.samples = self.evaluations = require_samples(samples)
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        assert isinstance(latent, RelaxedLatent)
        value, slope = evaluate_with_slope(f, b, torch.Size([self.samples, *latent.batch_shape]), "DoubleCV")
        linear = latent.inner(leave_one_out_mean(slope), b - latent.mean())
        with torch.enable_grad():
            h = value.detach() + self.scale * linear
            weight = h - leave_one_out_mean(h)
            grad = (expand_to(weight, latent) * latent.score(b)).mean(0)
            grad = grad - self.scale * latent.mean_gradient(slope.mean(0))
        return Estimate(latent, value.mean(0), grad, phi=tuple(self.parameters()))
