"""A control variate corrected by enumeration: what RELAX must be measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent
from sb3_relax.estimators.methods.enumeration import wide_support
from sb3_relax.estimators.surrogate import Surrogate, value_vjp
from sb3_relax.estimators.surrogate_estimator import SurrogateEstimator


class ExactCorrection(SurrogateEstimator):
    """ĝ = [f(b) - c_φ(b)] ∂θ log p(b|θ) + ∂θ Σ_b p(b|θ) c_φ(b), the sum over every b.

    No relaxation and no relaxation noise, at the price of evaluating c everywhere: for supports of up to
    ``latents.MAX_SUPPORT`` values. With two values of b it is, sample by sample, a state-dependent baseline
    b = p0·c(1) + p1·c(0), so it can gain nothing that a good baseline does not.

    c is asked for these values alone, so b must be one of them.

    :param surrogate: c_φ of the hard sample, ``[..., *batch, *event]`` → ``[..., *batch]``
    :param center: whether the mean of f over earlier batches is subtracted from f, so that c need not learn it first

    Example::

        estimate = ExactCorrection(surrogate)(GumbelOneHot(logits), f)
    """

    latents = (LogisticBernoulli, GumbelOneHot)

    def __init__(self, surrogate: Surrogate, center: bool = True):
        super().__init__(surrogate, center)

    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        assert isinstance(latent, RelaxedLatent)
        with torch.no_grad():
            points = wide_support(latent).contiguous()  # as c may look at it as of another shape
            scores = latent.score(points)
            score = latent.score(b)
            # ∂θ Σ p c = Σ p c ∂θ log p. At the point that was drawn the weight is less by one, for f(b) - c(b)
            drawn = (points == b).flatten(-latent.sample_ndim).all(-1)
            weights = expand_to(latent.log_prob(points).exp() - drawn.to(scores.dtype), latent) * scores
            plain = expand_to(self.centred(value), latent) * score
        with torch.enable_grad():
            c, vjp = value_vjp(self.surrogate, points, latent)
            grad = plain + (expand_to(c, latent) * weights).sum(0)

        def phi_vjp(grad_bar: Tensor) -> list[tuple[Tensor, Tensor]]:
            """The last line backwards."""
            assert vjp is not None
            return vjp((weights * grad_bar).flatten(-latent.event_ndim).sum(-1))

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
