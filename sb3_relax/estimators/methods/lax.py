"""LAX (Eq 5; Grathwohl et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import Latent, ReparameterisedLatent
from sb3_relax.estimators.surrogate import Surrogate, value_slope_vjp
from sb3_relax.estimators.surrogate_estimator import SurrogateEstimator


class LAX(SurrogateEstimator):
    """ĝ = [f(b) - c_φ(b)] ∂θ log p(b|θ) + ∂θ c_φ(b), with b = T(θ, ε) (Eq 5).

    The noise is that of the very b that was drawn, ε = (b - μ)/σ: fresh noise in both places is biased, and in the
    correction alone it throws away the correlation that lowers the variance. c = f gives the reparameterisation
    gradient, c = 0 gives REINFORCE.

    Of a Gaussian policy it is the control variate that Liu et al. 2018 (arXiv:1710.11198) call Stein's. Where their
    identity is used once more for σ, it is :class:`CurvatureLAX`.

    When to use it: continuous b and a black box (with a differentiable f, Reparam).

    :param surrogate: c_φ, ``[*batch, D]`` → ``[*batch]``. Its parameters are φ: a module,
        or a function without parameters
    :param center: whether the mean of f over earlier batches is subtracted from f, so that c need not learn it first

    Example::

        estimate = LAX(MLPSurrogate(D))(Gaussian(loc, log_scale), f)
    """

    latents = (ReparameterisedLatent,)

    def __init__(self, surrogate: Surrogate, center: bool = True):
        super().__init__(surrogate, center)

    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        assert isinstance(latent, ReparameterisedLatent)
        score = latent.score(b)
        with torch.enable_grad():
            c, slope, vjp = value_slope_vjp(self.surrogate, b, latent)
            grad = torch.addcmul(latent.path_gradient(b, slope), expand_to(self.centred(value) - c, latent), score)

        def phi_vjp(grad_bar: Tensor) -> list[tuple[Tensor, Tensor]]:
            """The lines above backwards."""
            assert vjp is not None
            return vjp(-(grad_bar * score).flatten(-latent.event_ndim).sum(-1), latent.path_change(b, grad_bar))

        phi = tuple(self.parameters())
        return Estimate(
            latent,
            value,
            grad,
            score=score,
            phi=phi,
            phi_vjp=None if vjp is None else phi_vjp,
            learn=self.learning(value),
        )
