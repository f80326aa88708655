"""The reparameterisation (pathwise) gradient (Eq 3; Kingma and Welling 2014; implicit: Figurnov et al. 2018)."""

from __future__ import annotations

from torch import Tensor

from sb3_relax.estimators.base import Estimator
from sb3_relax.estimators.estimate import Estimate
from sb3_relax.estimators.latents import Latent, ReparameterisedLatent
from sb3_relax.estimators.objective import Objective, evaluate_with_slope


class Reparam(Estimator):
    """ĝ = ∂f/∂b · ∂b/∂θ with b = T(θ, ε) (Eq 3).

    When to use it: continuous latents and a differentiable f, where it is hard to beat. When not: discrete b, or an f
    with jumps, which it does not see.

    Example::

        estimate = Reparam()(Gaussian(loc, log_scale), lambda b: b.square().sum(-1))
    """

    needs_grad_f = True
    relaxes_f = True
    pathwise = True
    latents = (ReparameterisedLatent,)

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        assert isinstance(latent, ReparameterisedLatent)
        value, slope = evaluate_with_slope(f, b, latent.batch_shape, "Reparam")
        return Estimate(latent, value, latent.path_gradient(b, slope), score=latent.score(b))
