"""The straight-through estimator (Bengio, Léonard and Courville 2013)."""

from __future__ import annotations

from torch import Tensor

from sb3_relax.estimators.base import Estimator
from sb3_relax.estimators.estimate import Estimate
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent
from sb3_relax.estimators.objective import Objective, evaluate_with_slope


class StraightThrough(Estimator):
    """ĝ = ∂f/∂b · ∂p/∂θ at the hard b: backward as if ∂b/∂p = 1.

    Biased by E[∂f/∂b] against the difference quotient of f (nothing for a linear f), with no temperature to lower it:
    with one, see :class:`GumbelRao`. When to use it: a quick baseline of low variance.

    Example::

        estimate = StraightThrough()(LogisticBernoulli(logits), f)
    """

    unbiased = False
    needs_grad_f = True
    latents = (LogisticBernoulli, GumbelOneHot)

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        assert isinstance(latent, RelaxedLatent)
        value, slope = evaluate_with_slope(f, b, latent.batch_shape, "StraightThrough")
        return Estimate(latent, value, latent.mean_gradient(slope), score=latent.score(b))
