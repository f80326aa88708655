"""MuProp (Gu et al. 2016)."""

from __future__ import annotations

from torch import Tensor

from sb3_relax.estimators.base import Estimate, Estimator, expand_to
from sb3_relax.estimators.functions import Objective, evaluate, evaluate_with_slope
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent


class MuProp(Estimator):
    """ĝ = [f(b) - f(μ) - f'(μ)·(b - μ)] ∂θ log p(b|θ) + f'(μ)·∂θ μ, μ = E[b]: a first-order Taylor control variate.

    When to use it: f nearly linear, two evaluations, nothing to train. When not: f(μ) says little about f at the
    corners, as where probabilities are near ½; REBAR and RELAX fit better. arXiv:1511.05176.

    Example::

        estimate = MuProp()(LogisticBernoulli(logits), f)
    """

    needs_grad_f = True
    relaxes_f = True  # μ lies between the corners
    evaluations = 2
    latents = (LogisticBernoulli, GumbelOneHot)

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        assert isinstance(latent, RelaxedLatent)
        value = evaluate(f, b, latent.batch_shape)
        mean = latent.mean()
        at_mean, slope = evaluate_with_slope(f, mean, latent.batch_shape, "MuProp")
        taylor = at_mean.detach() + latent.inner(slope, b - mean)
        score = latent.score(b)
        grad = expand_to(value.detach() - taylor, latent) * score + latent.mean_gradient(slope)
        return Estimate(latent, value, grad, score=score)
