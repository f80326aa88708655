"""Von Mises' distribution of angles, as points of the circle."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import VonMises

from sb3_relax.estimators.checks import require_tensors
from sb3_relax.estimators.latents.base import ReparameterisedLatent
from sb3_relax.estimators.latents.torch_samples import following

#: nodes of the quadrature by which a sample moves with κ
NODES = 48
#: density, relative to the sample's own, beyond which a tail is left out: e to the minus this
REACH = 40.0


class Circular(ReparameterisedLatent):
    """D independent angles x ~ VonMises(μ, κ), as points b = (cos x, sin x) of the circle: ``[*batch, D, 2]``.

    A function of the angle jumps where it starts again, unless it is periodic, and a control variate with a jump would
    be biased. A function of the point has none. ``torch.atan2(b[..., 1], b[..., 0])`` is the angle.

    θ is (μ, log κ), ``[*batch, D, 2]``. x moves with μ as it is, and with κ implicitly (Figurnov et al. 2018):
    ∂x/∂κ = -∂κF/p, where ∂κF is integrated numerically from μ, or from the other side of the circle.

    :param loc: μ, ``[*batch, D]``
    :param log_concentration: log κ, broadcastable to ``loc``

    Example::

        q = Circular(heading, torch.zeros(3))
    """

    event_ndim = 2
    sample_ndim = 2

    def __init__(self, loc: Tensor, log_concentration: Tensor):
        require_tensors(loc=loc, log_concentration=log_concentration)
        self.theta = torch.stack([loc, log_concentration.expand_as(loc)], dim=-1)

    def at(self, theta: Tensor) -> Circular:
        latent = Circular.__new__(Circular)
        latent.theta = theta
        return latent

    def _parameters(self) -> tuple[Tensor, Tensor]:
        loc, log_concentration = self.wide_theta.unbind(-1)
        return loc, log_concentration.exp()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        loc, concentration = self._parameters()
        with following(generator):
            x = VonMises(loc.detach(), concentration.detach(), validate_args=False).sample()
        return _point(x)

    def log_prob(self, b: Tensor) -> Tensor:
        """Of the angle: the density is one of radians."""
        loc, concentration = self._parameters()
        # log I0(κ) - κ, which does not overflow
        return (concentration * ((b * _point(loc)).sum(-1) - 1) - _log_i0e(concentration)).sum(-1)

    def entropy(self) -> Tensor:
        _, concentration = self._parameters()
        return (_log_i0e(concentration) + concentration * (1 - _resultant(concentration))).sum(-1)

    def kl(self, other: Circular) -> Tensor:
        (loc, concentration), (other_loc, others) = self._parameters(), other._parameters()
        toward = _resultant(concentration)
        from_self = concentration * (toward - 1) - _log_i0e(concentration)
        from_other = others * (toward * (loc - other_loc).cos() - 1) - _log_i0e(others)
        return (from_self - from_other).sum(-1)

    def mean(self) -> Tensor:
        """E[b], inside the circle."""
        loc, concentration = self._parameters()
        return (_resultant(concentration).unsqueeze(-1) * _point(loc)).detach()

    def mode(self) -> Tensor:
        return _point(self._parameters()[0].detach())

    def score(self, b: Tensor) -> Tensor:
        cos, sin, concentration = self._turned(b)
        return torch.stack([concentration * sin, concentration * (cos - _resultant(concentration))], dim=-1)

    def path_gradient(self, b: Tensor, slope: Tensor) -> Tensor:
        cos, sin, concentration = self._turned(b)
        along = slope[..., 1] * b[..., 0] - slope[..., 0] * b[..., 1]
        return torch.stack([along, along * concentration * _speed(cos, sin, concentration)], dim=-1)

    def _turned(self, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """cos(x - μ), sin(x - μ) and κ, detached."""
        loc, concentration = (parameter.detach() for parameter in self._parameters())
        at = _point(loc)
        return (b * at).sum(-1), b[..., 1] * at[..., 0] - b[..., 0] * at[..., 1], concentration


def _point(x: Tensor) -> Tensor:
    return torch.stack([x.cos(), x.sin()], dim=-1)


def _log_i0e(concentration: Tensor) -> Tensor:
    """log(2π I0(κ) e^-κ)."""
    return torch.special.i0e(concentration).log() + math.log(2 * math.pi)


def _resultant(concentration: Tensor) -> Tensor:
    """A(κ) = I1(κ)/I0(κ), the length of E[b]."""
    return torch.special.i1e(concentration) / torch.special.i0e(concentration)


def _speed(cos: Tensor, sin: Tensor, concentration: Tensor) -> Tensor:
    """∂s/∂κ of s = x - μ in (-π, π): -∫_0^s (cos u - A) p(u) du / p(s), which is the integral from s to π as well.

    Of the two that one is taken in which p is not much larger than at s.
    """
    angle = torch.atan2(sin, cos)
    size, near = angle.abs(), concentration * (1 - cos) < 1
    # beyond `end` the density is e^-REACH of that at s
    end = torch.arccos((cos - REACH / concentration).clamp(-1, 1))
    low, high = torch.where(near, 0.0, size), torch.where(near, size, end)
    x, weight = (torch.from_numpy(part).to(cos) for part in np.polynomial.legendre.leggauss(NODES))
    u = low.unsqueeze(-1) + (high - low).unsqueeze(-1) * (x + 1) / 2
    exponent = concentration.unsqueeze(-1) * (u.cos() - cos.unsqueeze(-1))
    integrand = exponent.exp() * (u.cos() - _resultant(concentration).unsqueeze(-1))
    integral = (integrand * weight).sum(-1) * (high - low) / 2
    return torch.where(near, -integral, integral) * angle.sign()
