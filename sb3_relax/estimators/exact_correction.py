"""A control variate corrected by enumeration: what RELAX must be measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from sb3_relax.estimators.base import Estimate, Estimator, Surrogate, expand_to
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent


class ExactCorrection(Estimator):
    """ĝ = [f(b) - c_φ(b)] ∂θ log p(b|θ) + ∂θ Σ_b p(b|θ) c_φ(b), the sum over every b.

    No relaxation and no relaxation noise, at the price of evaluating c everywhere: for supports of up to
    ``latents.MAX_SUPPORT`` values. With two values of b it is, sample by sample, a state-dependent baseline
    b = p0·c(1) + p1·c(0), so it can gain nothing that a good baseline does not.

    :param surrogate: c_φ of the hard sample, ``[..., *batch, *event]`` → ``[..., *batch]``

    Example::

        estimate = ExactCorrection(surrogate)(GumbelOneHot(logits), f)
    """

    unbiased = True
    latents = (LogisticBernoulli, GumbelOneHot)

    def __init__(self, surrogate: Surrogate):
        self.surrogate = surrogate

    def finish(
        self,
        latent: Latent,
        b: Tensor,
        value: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        self._check(latent, value)
        assert isinstance(latent, RelaxedLatent)
        latent_ = latent.detach()
        support = latent_.support()
        # [M, *batch, *event]: every value for every sample, and b itself as one more, in one call of c
        support = support.reshape(len(support), *(1,) * len(latent.batch_shape), *support.shape[1:])
        support = support.expand(len(support), *b.shape)
        with torch.enable_grad():
            c = self.surrogate(torch.cat([support, b.unsqueeze(0)]))
        c_support, c_b = c[:-1], c[-1]
        # ∂θ Σ p c = Σ p c ∂θ log p
        weight = latent_.log_prob(support).exp() * c_support
        correction = (expand_to(weight, latent) * latent_.score(support)).sum(0)
        score = latent_.score(b)
        return Estimate(latent, value, score, expand_to(value - c_b, latent) * score + correction)
