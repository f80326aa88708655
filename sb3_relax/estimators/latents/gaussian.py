"""Normals b = μ + σ ε, and their exponentials."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sb3_relax.estimators.checks import require_tensors
from sb3_relax.estimators.latents.base import ReparameterisedLatent


class Gaussian(ReparameterisedLatent):
    """D independent normals b = μ + σ ε.

    :param loc: μ, ``[*batch, D]``
    :param log_scale: log σ, broadcastable to ``loc``
    """

    event_ndim = 2
    sample_ndim = 1

    def __init__(self, loc: Tensor, log_scale: Tensor):
        require_tensors(loc=loc, log_scale=log_scale)
        self.theta = torch.stack([loc, log_scale.expand_as(loc)], dim=-1)

    def at(self, theta: Tensor) -> Gaussian:
        latent = type(self).__new__(type(self))
        latent.theta = theta
        return latent

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.at_noise(self.base_noise(generator)).detach()

    def base_noise(self, generator: torch.Generator | None = None) -> Tensor:
        """ε, standard normal, of the shape of b."""
        theta = self.theta
        return torch.randn(theta.shape[:-1], dtype=self.computing_dtype, device=theta.device, generator=generator)

    def at_noise(self, noise: Tensor) -> Tensor:
        """b = μ + σ ε, differentiable in θ."""
        loc, log_scale = self.wide_theta.unbind(-1)
        return loc + log_scale.exp() * noise

    def log_prob(self, b: Tensor) -> Tensor:
        loc, log_scale = self.wide_theta.unbind(-1)
        return torch.distributions.Normal(loc, log_scale.exp()).log_prob(b).sum(-1)

    def kl(self, other: Gaussian) -> Tensor:
        (loc, log_scale), (other_loc, other_log_scale) = self.wide_theta.unbind(-1), other.wide_theta.unbind(-1)
        change = log_scale - other_log_scale
        distance = (loc - other_loc) * (-other_log_scale).exp()
        # ½(σ²/σ'² - 1) by expm1: the two policies of a small step differ by little
        return (0.5 * (torch.expm1(2 * change) + distance.square()) - change).sum(-1)

    def entropy(self) -> Tensor:
        return (self.wide_theta[..., 1] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def mean(self) -> Tensor:
        return self.wide_theta.detach()[..., 0]

    def mean_gradient(self, slope: Tensor) -> Tensor:
        """``slope`` · ∂E[b]/∂θ, shape of ``theta``: what a linear function of b contributes to the gradient."""
        return torch.stack([slope, torch.zeros_like(slope)], dim=-1)

    def mode(self) -> Tensor:
        return self.wide_theta.detach()[..., 0]

    def score(self, b: Tensor) -> Tensor:
        loc, log_scale = self.wide_theta.detach().unbind(-1)
        inverse_scale = (-log_scale).exp()
        noise = (b - loc) * inverse_scale
        return torch.stack([noise * inverse_scale, noise * noise - 1], dim=-1)

    def path_gradient(self, b: Tensor, slope: Tensor) -> Tensor:
        # the noise ε = (b - μ)/σ of this very b is held fixed: ∂b/∂μ = 1, ∂b/∂log σ = b - μ
        return torch.stack([slope, slope * (b - self.wide_theta.detach()[..., 0])], dim=-1)

    def path_change(self, b: Tensor, v: Tensor) -> Tensor:
        of_loc, of_log_scale = v.unbind(-1)
        return torch.addcmul(of_loc, of_log_scale, b - self.wide_theta.detach()[..., 0])


class LogGaussian(Gaussian):
    """D independent log-normals b = exp(μ + σ ε): positive numbers.

    :param loc: μ, the mean of log b, ``[*batch, D]``
    :param log_scale: log σ, broadcastable to ``loc``

    Example::

        q = LogGaussian(loc, log_scale)
    """

    def at_noise(self, noise: Tensor) -> Tensor:
        return super().at_noise(noise).exp()

    def log_prob(self, b: Tensor) -> Tensor:
        log_b = b.log()
        return super().log_prob(log_b) - log_b.sum(-1)

    def entropy(self) -> Tensor:
        return super().entropy() + self.wide_theta[..., 0].sum(-1)

    def mean(self) -> Tensor:
        loc, log_scale = self.wide_theta.detach().unbind(-1)
        return (loc + 0.5 * (2 * log_scale).exp()).exp()

    def mean_gradient(self, slope: Tensor) -> Tensor:
        slope = slope * self.mean()
        return torch.stack([slope, slope * (2 * self.wide_theta.detach()[..., 1]).exp()], dim=-1)

    def mode(self) -> Tensor:
        loc, log_scale = self.wide_theta.detach().unbind(-1)
        return (loc - (2 * log_scale).exp()).exp()

    def score(self, b: Tensor) -> Tensor:
        return super().score(b.log())

    def path_gradient(self, b: Tensor, slope: Tensor) -> Tensor:
        return super().path_gradient(b.log(), slope * b)

    def path_change(self, b: Tensor, v: Tensor) -> Tensor:
        return super().path_change(b.log(), v) * b
