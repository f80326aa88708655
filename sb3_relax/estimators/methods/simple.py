"""SIMPLE: straight-through for subsets of k (Ahmed et al. 2023)."""

from __future__ import annotations

from torch import Tensor

from sb3_relax.estimators.base import Estimator
from sb3_relax.estimators.estimate import Estimate
from sb3_relax.estimators.latents import KSubset, Latent
from sb3_relax.estimators.objective import Objective, evaluate_with_slope


class SIMPLE(Estimator):
    """ĝ = ∂f/∂b · ∂μ/∂θ at an exact sample b of k bits out of D, with the exact marginals μ (arXiv:2210.01941).

    Straight-through, whose backward pass knows that the bits exclude each other: ∂μ/∂θ is the covariance of b. Biased
    by what f is not linear, as any straight-through; nothing for a linear f. Unbiased for the same latent are
    :class:`Reinforce`, :class:`NVIL` and :class:`RLOO`, and :class:`Exact` for a few hundred subsets.

    When to use it: one evaluation of a differentiable f, and bias does not matter.

    Example::

        estimate = SIMPLE()(KSubset(logits, k=5), f)  # f: [*batch, D] → [*batch]
    """

    unbiased = False
    needs_grad_f = True
    latents = (KSubset,)

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        assert isinstance(latent, KSubset)
        value, slope = evaluate_with_slope(f, b, latent.batch_shape, "SIMPLE")
        return Estimate(latent, value, latent.mean_gradient(slope), score=latent.score(b))
