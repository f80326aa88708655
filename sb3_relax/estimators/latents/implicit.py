"""Gamma, Beta and Dirichlet of torch.distributions, reparameterised implicitly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet, Distribution, Gamma, kl_divergence

from sb3_relax.estimators.latents.base import ReparameterisedLatent, open_unit
from sb3_relax.estimators.latents.torch_samples import following


class Implicit(ReparameterisedLatent):
    """A Gamma, Beta or Dirichlet of torch.distributions, reparameterised implicitly (Figurnov et al. 2018).

    θ is ``[*batch, D, 2]`` for Gamma (concentration, rate) and Beta (concentration1, concentration0), b
    ``[*batch, D]``; for Dirichlet both are ``[*batch, K]``. ∂b/∂θ is torch's, an approximation that is good
    to about 1e-3.

    :param distribution: the distribution; its parameters may be attached to whatever made them
    :raises TypeError: for any other distribution

    Example::

        q = Implicit(torch.distributions.Gamma(concentration, rate))
    """

    sample_ndim = 1

    def __init__(self, distribution: Distribution):
        if isinstance(distribution, Gamma):
            self.theta = torch.stack([distribution.concentration, distribution.rate], dim=-1)
        elif isinstance(distribution, Beta):
            self.theta = torch.stack([distribution.concentration1, distribution.concentration0], dim=-1)
        elif isinstance(distribution, Dirichlet):
            self.theta = distribution.concentration
        else:
            raise TypeError(
                f"Implicit takes torch.distributions' Gamma, Beta and Dirichlet; got {type(distribution).__name__} "
                "(for a Normal use Gaussian)"
            )
        self.family: type[Gamma] | type[Beta] | type[Dirichlet] = type(distribution)
        self.event_ndim = 1 if self.family is Dirichlet else 2
        if self.theta.dim() < self.event_ndim:
            raise ValueError(f"the distribution must have a dimension for its variables; got {distribution}")

    def at(self, theta: Tensor) -> Implicit:
        latent = Implicit.__new__(Implicit)
        latent.theta, latent.family, latent.event_ndim = theta, self.family, self.event_ndim
        return latent

    @property
    def variables(self) -> int:
        return 1 if self.family is Dirichlet else super().variables

    def _apart(self) -> Implicit:
        if self.family is Dirichlet:
            raise TypeError("the numbers of a Dirichlet depend on each other: they are one variable")
        return super()._apart()

    def _distribution(self, theta: Tensor) -> Distribution:
        if self.family is Dirichlet:
            return Dirichlet(theta, validate_args=False)
        first, second = theta.unbind(-1)
        return (Gamma if self.family is Gamma else Beta)(first, second, validate_args=False)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad(), following(generator):
            return self._draw()

    def _draw(self) -> Tensor:
        if self.family is Gamma:
            return self._distribution(self.wide_theta).sample()
        # normalised gammas: torch's own Dirichlet sampler takes neither vmap nor an empty batch
        theta = self.wide_theta
        gamma = Gamma(theta, torch.ones_like(theta), validate_args=False).sample()
        x = open_unit(gamma / gamma.sum(-1, keepdim=True))  # at 0 and 1 the score is infinite
        return x if self.family is Dirichlet else x[..., 0]

    def log_prob(self, b: Tensor) -> Tensor:
        log_prob = self._distribution(self.wide_theta).log_prob(b)
        return log_prob if self.family is Dirichlet else log_prob.sum(-1)

    def kl(self, other: Implicit) -> Tensor:
        kl = kl_divergence(self._distribution(self.wide_theta), self._distribution(other.wide_theta))
        return kl if self.family is Dirichlet else kl.sum(-1)

    def entropy(self) -> Tensor:
        entropy = self._distribution(self.wide_theta).entropy()
        return entropy if self.family is Dirichlet else entropy.sum(-1)

    def mean(self) -> Tensor:
        return self._distribution(self.wide_theta).mean.detach()

    def mode(self) -> Tensor:
        return self._distribution(self.wide_theta).mode.detach()

    def score(self, b: Tensor) -> Tensor:
        theta = self.wide_theta.detach()
        if self.family is Gamma:
            concentration, rate = theta.unbind(-1)
            return torch.stack([rate.log() + b.log() - concentration.digamma(), concentration / rate - b], dim=-1)
        x = b if self.family is Dirichlet else torch.stack([b, 1 - b], dim=-1)
        return x.log() - theta.digamma() + theta.sum(-1, keepdim=True).digamma()

    def path_gradient(self, b: Tensor, slope: Tensor) -> Tensor:
        # ∂b/∂θ = -∂θF(b|θ)/p(b|θ): the backward of torch's own rsample, at a b drawn before
        theta = self.wide_theta.detach()
        if self.family is Gamma:
            concentration, rate = theta.unbind(-1)
            by_concentration = torch._standard_gamma_grad(concentration.expand_as(b), b * rate) / rate
            return torch.stack([slope * by_concentration, -slope * b / rate], dim=-1)
        if self.family is Beta:
            b, slope = torch.stack([b, 1 - b], dim=-1), torch.stack([slope, torch.zeros_like(slope)], dim=-1)
        theta = theta.expand_as(b)
        total = theta.sum(-1, keepdim=True).expand_as(b)
        return torch._dirichlet_grad(b, theta, total) * (slope - (b * slope).sum(-1, keepdim=True))
