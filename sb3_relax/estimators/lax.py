"""LAX (Eq 5; Grathwohl et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from sb3_relax.estimators.base import Estimate, Estimator, Surrogate, expand_to, value_and_slope
from sb3_relax.estimators.latents import Gaussian, Latent


class LAX(Estimator):
    """ĝ = [f(b) - c_φ(b)] ∂θ log p(b|θ) + ∂θ c_φ(b), with b = T(θ, ε) (Eq 5).

    The noise is that of the very b that was drawn, ε = (b - μ)/σ: fresh noise in both places is biased, and in the
    correction alone it throws away the correlation that lowers the variance. c = f gives the reparameterisation
    gradient, c = 0 gives REINFORCE.

    :param surrogate: c_φ, ``[*batch, D]`` → ``[*batch]``

    Example::

        estimate = LAX(surrogate)(Gaussian(loc, log_scale), f)
    """

    unbiased = True
    latents = (Gaussian,)

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
        assert isinstance(latent, Gaussian)
        with torch.enable_grad():
            c, slope = value_and_slope(self.surrogate, b)
        score = latent.score(b)
        return Estimate(
            latent, value, score, expand_to(value - c, latent) * score + slope.unsqueeze(-1) * latent.path(b)
        )
