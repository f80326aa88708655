"""RELAX (Eq 8; Grathwohl et al. 2018), with independent noise or coupled in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sb3_relax.estimators.base import Estimate, TwoPhaseEstimator, expand_to, require_samples
from sb3_relax.estimators.functions import Surrogate, value_and_slope
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent
from sb3_relax.estimators.surrogates import MLPSurrogate


class RELAX(TwoPhaseEstimator):
    """ĝ = [f(b) - c_φ(z̃)] ∂θ log p(b|θ) + ∂θ c_φ(z) - ∂θ c_φ(z̃), with b = H(z) and z̃ ~ p(z|b,θ) (Eq 8).

    The path of θ through z̃ is part of the estimator. In the coordinates where z = natural + noise, ∂z̃/∂natural is a
    known diagonal 1 - D(b, z̃) (``RelaxedLatent.coupling``), so nothing is differentiated through the sampler.

    ``coupled=False`` draws z and z̃ independently given b. ``coupled=True`` uses one draw as the value of both: both
    keep their marginals, and only their θ-derivatives differ::

        ĝ = [f(b) - c(z)] ∂θ log p(b|θ) + D · ∂c/∂z

    so c is evaluated once. Any direct dependence of c on θ is held fixed, in both.

    When to use it: one evaluation of a black box, and a surrogate that can be trained as the problem moves slowly. When
    not: f may be called K times (RLOO), or is differentiable and cheap (REBAR, DoubleCV).

    :param surrogate: c_φ of the relaxed sample, ``[..., *batch, *event]`` → ``[..., *batch]``; a module, unless the
        caller trains φ
    :param coupled: whether z̃ shares z's value
    :param draws: relaxed draws per sample; ĝ is their average, which costs no evaluation of f
    :raises ValueError: for ``draws`` below 1

    Example::

        estimate = RELAX(MLPSurrogate(D))(LogisticBernoulli(logits), f)
    """

    latents = (LogisticBernoulli, GumbelOneHot)

    def __init__(self, surrogate: Surrogate, coupled: bool = True, draws: int = 1):
        super().__init__()
        self.surrogate = surrogate
        self.coupled = coupled
        self.draws = require_samples(draws, least=1, what="draws")

    @classmethod
    def make(cls, latent: Latent, **kwargs: Any) -> RELAX:
        return cls(MLPSurrogate.of(latent), **kwargs)

    def noise_shape(self, latent: Latent) -> tuple[int, ...]:
        """``[draws, *theta.shape]``, with a leading 2 (for z and z̃) where they are drawn independently."""
        return relaxation_shape(latent, self.coupled, self.draws)

    def finish(
        self,
        latent: Latent,
        b: Tensor,
        value: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        self._check(latent, value)
        noise = self._noise(latent, noise, generator)
        return relax_estimate(self.surrogate, latent, b, value, noise, self.coupled, tuple(self.parameters()))


def relaxation_shape(latent: Latent, coupled: bool, draws: int) -> tuple[int, ...]:
    """Shape of the uniforms behind z (and z̃)."""
    shape = (draws, *latent.theta.shape)
    return shape if coupled else (2, *shape)


def relax_estimate(
    surrogate: Surrogate,
    latent: Latent,
    b: Tensor,
    value: Tensor,
    noise: Tensor,
    coupled: bool,
    phi: tuple[Tensor, ...],
) -> Estimate:
    """Eq 8 for a given c, b, f(b) and noise."""
    assert isinstance(latent, RelaxedLatent)
    with torch.no_grad():
        z = latent.conditional(b, noise)
        # z̃ is the last of the two, or the only one
        coupling = latent.coupling(b, z if coupled else z[1])
    with torch.enable_grad():
        c, slope = value_and_slope(surrogate, z)
        if coupled:
            slope = slope * coupling
        else:
            slope = slope[0] - (1 - coupling) * slope[1]
            c = c[1]
        score = latent.score(b)
        grad = expand_to(value.detach() - c, latent) * score + latent.pull_back(slope)
        return Estimate(latent, value, grad[0] if len(grad) == 1 else grad.mean(0), score=score, phi=phi)
