"""ReinMax: straight-through to second order (Liu et al. 2023)."""

from __future__ import annotations

from torch import Tensor

from sb3_relax.estimators.base import Estimator
from sb3_relax.estimators.estimate import Estimate
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent
from sb3_relax.estimators.objective import Objective, evaluate_with_slope
from sb3_relax.estimators.temperature import require_temperature


class ReinMax(Estimator):
    """ĝ = 2 ∂f/∂b · J(½(b + p_τ)) - ½ ∂f/∂b · J(p), at the hard b, where J(q) = diag(q) - qqᵀ and p_τ = softmax(θ/τ).

    Straight-through takes f for linear (Euler's rule for the way from one value of b to another). This one takes the
    mean of the slopes at both ends (Heun's). At τ = 1 it is right for every quadratic f, and its bias is that of the
    trapezoid rule, as for :class:`GumbelRao` where τ → 0, at no noise beside b. For bits, J(q) = q (1 - q).

    Biased. When to use it: one evaluation of a differentiable f that curves gently. arXiv:2304.08612.

    :param temperature: τ of p_τ. Away from 1 it is biased for a quadratic as well; the paper takes more than 1 where
        training is unstable
    :raises ValueError: for a temperature that is not positive

    Example::

        estimate = ReinMax()(GumbelOneHot(logits), f)  # one call of f
    """

    unbiased = False
    needs_grad_f = True
    latents = (LogisticBernoulli, GumbelOneHot)

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        self.temperature = require_temperature(temperature)

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        assert isinstance(latent, RelaxedLatent)
        value, slope = evaluate_with_slope(f, b, latent.batch_shape, "ReinMax")
        halfway = (b + latent.relax(latent.natural().detach(), self.temperature)) / 2
        grad = 2 * latent.relax_gradient(halfway, slope, 1.0) - 0.5 * latent.relax_gradient(latent.mean(), slope, 1.0)
        return Estimate(latent, value, grad, score=latent.score(b))
