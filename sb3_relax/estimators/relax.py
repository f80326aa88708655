"""RELAX (Eq 8; Grathwohl et al. 2018), with independent noise or coupled in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from sb3_relax.estimators.base import Estimate, Estimator, Surrogate, expand_to, value_and_slope
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent


class RELAX(Estimator):
    """ĝ = [f(b) - c_φ(z̃)] ∂θ log p(b|θ) + ∂θ c_φ(z) - ∂θ c_φ(z̃), with b = H(z) and z̃ ~ p(z|b,θ) (Eq 8).

    ``coupled=False`` draws z and z̃ independently given b; the path of θ through z̃ is part of the estimator.
    ``coupled=True`` uses one draw as the value of both. Both keep their marginals, only their θ-derivatives differ,
    and the difference D = ∂z/∂θ - ∂z̃/∂θ is a known diagonal (``RelaxedLatent.coupling``)::

        ĝ = [f(b) - c(z)] ∂θ log p(b|θ) + D · ∂c/∂z

    so c is evaluated once, and any direct dependence of c on θ cancels.

    :param surrogate: c_φ of the relaxed sample, ``[draws, *batch, *event]`` → ``[draws, *batch]``
    :param coupled: whether z̃ shares z's value
    :param draws: relaxed draws per sample; ĝ is their average, which costs no evaluation of f
    :raises ValueError: for ``draws`` below 1

    Example::

        estimate = RELAX(surrogate)(LogisticBernoulli(logits), f)
    """

    unbiased = True
    latents = (LogisticBernoulli, GumbelOneHot)

    def __init__(self, surrogate: Surrogate, coupled: bool = True, draws: int = 1):
        if draws < 1:
            raise ValueError(f"draws must be at least 1; got {draws}")
        self.surrogate = surrogate
        self.coupled = coupled
        self.draws = draws

    def noise_shape(self, latent: Latent) -> tuple[int, ...]:
        """``[draws, *theta.shape]``, with a leading 2 (for z and z̃) where they are drawn independently."""
        shape = (self.draws, *latent.theta.shape)
        return shape if self.coupled else (2, *shape)

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
        noise = self._noise(latent, noise, generator)
        with torch.enable_grad():
            c, correction = (self._coupled if self.coupled else self._independent)(latent, b, noise)
        score = latent.score(b)
        grad = expand_to(value - c, latent) * score + correction
        return Estimate(latent, value, score, grad[0] if self.draws == 1 else grad.mean(0))

    def _coupled(self, latent: RelaxedLatent, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            z = latent.conditional(b, noise)
            coupling = latent.coupling(b, z)
        c, slope = value_and_slope(self.surrogate, z)
        return c, latent.pull_back(slope * coupling)

    def _independent(self, latent: RelaxedLatent, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        # one leaf per draw, so that the gradient comes out per draw too
        theta = latent.theta.detach().expand(self.draws, *latent.theta.shape).clone().requires_grad_()
        leaf = latent.at(theta)
        z = leaf.reparameterised(b, noise[0])
        z_tilde = leaf.conditional(b, noise[1])
        c, c_tilde = self.surrogate(torch.stack([z, z_tilde])).unbind(0)
        (correction,) = torch.autograd.grad((c - c_tilde).sum(), theta, create_graph=True)
        return c_tilde, correction
