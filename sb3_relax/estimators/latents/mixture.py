"""Mixtures of normals."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from sb3_relax.estimators.checks import require_tensors
from sb3_relax.estimators.latents.base import ReparameterisedLatent


class GaussianMixture(ReparameterisedLatent):
    """D independent numbers, each from a mixture of C normals whose component is summed out: b ~ Σ_c w_c N(μ_c, σ_c).

    θ is (logit of w, μ, log σ) of every component, ``[*batch, D, C, 3]``. b is continuous in θ although its component
    is drawn: it moves implicitly (Figurnov et al. 2018), ∂b/∂θ = -∂θF(b|θ)/p(b|θ), in closed form::

        ∂b/∂μ_c = r_c,   ∂b/∂log σ_c = r_c (b - μ_c),   ∂b/∂logit_c = -w_c (Φ_c - F)/p,   r_c = w_c φ_c/p

    :param logits: of the components, ``[*batch, D, C]``
    :param loc: μ, ``[*batch, D, C]``
    :param log_scale: log σ, broadcastable to ``loc``

    Example::

        q = GaussianMixture(logits, loc, log_scale)
    """

    event_ndim = 3
    sample_ndim = 1

    def __init__(self, logits: Tensor, loc: Tensor, log_scale: Tensor):
        require_tensors(logits=logits, loc=loc, log_scale=log_scale)
        if loc.dim() < 2 or logits.shape != loc.shape:
            raise ValueError(
                "logits and loc must be [*batch, D, C], numbers and components last; got shapes "
                f"{tuple(logits.shape)} and {tuple(loc.shape)}"
            )
        self.theta = torch.stack([logits, loc, log_scale.expand_as(loc)], dim=-1)

    def at(self, theta: Tensor) -> GaussianMixture:
        latent = GaussianMixture.__new__(GaussianMixture)
        latent.theta = theta
        return latent

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            logits, loc, log_scale = self.wide_theta.unbind(-1)
            flat = logits.softmax(-1).reshape(-1, logits.shape[-1])
            chosen = torch.multinomial(flat, 1, generator=generator).reshape(*logits.shape[:-1], 1)
            noise = torch.randn(loc.shape[:-1], dtype=loc.dtype, device=loc.device, generator=generator)
            return loc.gather(-1, chosen).squeeze(-1) + log_scale.gather(-1, chosen).squeeze(-1).exp() * noise

    def _log_joint(self, theta: Tensor, b: Tensor) -> Tensor:
        """log w_c N(b|μ_c, σ_c), ``[..., D, C]``."""
        logits, loc, log_scale = theta.unbind(-1)
        return logits.log_softmax(-1) + Normal(loc, log_scale.exp(), validate_args=False).log_prob(b.unsqueeze(-1))

    def log_prob(self, b: Tensor) -> Tensor:
        return self._log_joint(self.wide_theta, b).logsumexp(-1).sum(-1)

    def mean(self) -> Tensor:
        logits, loc, _ = self.wide_theta.detach().unbind(-1)
        return (logits.softmax(-1) * loc).sum(-1)

    def score(self, b: Tensor) -> Tensor:
        theta = self.wide_theta.detach()
        logits, loc, log_scale = theta.unbind(-1)
        share = self._log_joint(theta, b).softmax(-1)  # r_c
        inverse_scale = (-log_scale).exp()
        noise = (b.unsqueeze(-1) - loc) * inverse_scale
        return torch.stack(
            [share - logits.softmax(-1), share * noise * inverse_scale, share * (noise.square() - 1)], dim=-1
        )

    def path_gradient(self, b: Tensor, slope: Tensor) -> Tensor:
        theta = self.wide_theta.detach()
        logits, loc, log_scale = theta.unbind(-1)
        log_joint = self._log_joint(theta, b)
        log_p = log_joint.logsumexp(-1, keepdim=True)
        share, weight = (log_joint - log_p).exp(), logits.softmax(-1)
        distance = b.unsqueeze(-1) - loc
        noise = distance * (-log_scale).exp()
        # of the two tails the thinner one, where Φ_c - F is no difference of numbers near 1
        upper = (weight * torch.special.ndtr(noise)).sum(-1, keepdim=True) > 0.5
        sign = torch.where(upper, -1.0, 1.0)
        tail = torch.special.log_ndtr(sign * noise) - log_p
        tail = (tail.clamp(max=math.log(torch.finfo(tail.dtype).max) - 1)).exp()  # of component c, over p
        by_logit = -sign * weight * (tail - (weight * tail).sum(-1, keepdim=True))
        return torch.stack([by_logit, share, share * distance], dim=-1) * slope[..., None, None]
