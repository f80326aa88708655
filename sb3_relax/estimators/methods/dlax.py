"""DLAX (Eq 7; Grathwohl et al. 2018, appendix): LAX for a discrete b through its relaxation."""

from __future__ import annotations

import torch
from torch import Tensor

from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent
from sb3_relax.estimators.surrogate import Surrogate, value_slope_vjp
from sb3_relax.estimators.surrogate_estimator import SurrogateEstimator


class DLAX(SurrogateEstimator):
    """ĝ = f(b) ∂θ log p(b|θ) - c_φ(z) ∂θ log p(z|θ) + ∂θ c_φ(z), with b = H(z) (Eq 7).

    Both score terms are noisy and their noise is not the same, so it stays behind RELAX, which conditions on b: it is
    here to be compared. z is drawn given b.

    :param surrogate: c_φ of the relaxed sample, ``[*batch, *event]`` → ``[*batch]``. Its parameters are φ: a module,
        or a function without parameters
    :param center: whether the mean of f over earlier batches is subtracted from f, so that c need not learn it first

    Example::

        estimate = DLAX(MLPSurrogate(D))(LogisticBernoulli(logits), f)
    """

    latents = (LogisticBernoulli, GumbelOneHot)

    def __init__(self, surrogate: Surrogate, center: bool = True):
        super().__init__(surrogate, center)

    def noise_shape(self, latent: Latent) -> tuple[int, ...]:
        return tuple(latent.theta.shape)

    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        assert isinstance(latent, RelaxedLatent)
        assert noise is not None
        with torch.no_grad():
            z = latent.conditional(b, noise)
            base_score = latent.base_score(z - latent.natural())
        score = latent.score(b)
        with torch.enable_grad():
            c, slope, of_surrogate = value_slope_vjp(self.surrogate, z, latent)
            grad = expand_to(self.centred(value), latent) * score
            grad = grad + latent.pull_back(slope - expand_to(c, latent) * base_score)

        def vjp(grad_bar: Tensor) -> list[tuple[Tensor, Tensor]]:
            """The lines above backwards."""
            assert of_surrogate is not None
            slope_bar = latent.push_forward(grad_bar)
            return of_surrogate(-(slope_bar * base_score).flatten(-latent.event_ndim).sum(-1), slope_bar)

        return Estimate(
            latent,
            value,
            grad,
            score=score,
            phi=tuple(self.parameters()),
            phi_vjp=None if of_surrogate is None else vjp,
            learn=self.learning(value),
        )
