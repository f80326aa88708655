"""Student's t, with heavier tails than a normal's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import StudentT

from sb3_relax.estimators.checks import require_tensors
from sb3_relax.estimators.latents.base import ReparameterisedLatent
from sb3_relax.estimators.latents.torch_samples import following


class StudentsT(ReparameterisedLatent):
    """D independent numbers b = μ + σ t, t ~ Student's t of ``df`` degrees of freedom, which are fixed.

    θ is (μ, log σ), ``[*batch, D, 2]``.

    :param df: degrees of freedom, broadcastable to ``loc``
    :param loc: μ, ``[*batch, D]``
    :param log_scale: log σ, broadcastable to ``loc``
    :raises TypeError: for a ``df`` that requires grad

    Example::

        q = StudentsT(torch.tensor(4.0), loc, log_scale)
    """

    event_ndim = 2
    sample_ndim = 1

    def __init__(self, df: Tensor, loc: Tensor, log_scale: Tensor):
        require_tensors(df=df, loc=loc, log_scale=log_scale)
        if df.requires_grad:
            raise TypeError("no gradient of a Student's t is known in its degrees of freedom: give df.detach()")
        self.theta = torch.stack([loc, log_scale.expand_as(loc)], dim=-1)
        self.df = df

    def at(self, theta: Tensor) -> StudentsT:
        latent = StudentsT.__new__(StudentsT)
        latent.theta, latent.df = theta, self.df
        return latent

    def select(self, index: Tensor | int) -> StudentsT:
        latent = self.at(self.theta[index])
        latent.df = self.df.expand(self.theta.shape[:-1])[index]
        return self._keeping_context(latent, lambda context: context[index])

    def _apart(self) -> StudentsT:
        latent = self.at(self.theta.unsqueeze(-2))
        latent.df = self.df.expand(self.theta.shape[:-1]).unsqueeze(-1)
        return latent

    def _distribution(self) -> StudentT:
        loc, log_scale = self.wide_theta.unbind(-1)
        return StudentT(self.df.to(loc.dtype), loc, log_scale.exp(), validate_args=False)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        with following(generator):
            return self._distribution().sample()

    def log_prob(self, b: Tensor) -> Tensor:
        return self._distribution().log_prob(b).sum(-1)

    def entropy(self) -> Tensor:
        return self._distribution().entropy().sum(-1)

    def mean(self) -> Tensor:
        return self._distribution().mean.detach()

    def mode(self) -> Tensor:
        return self.wide_theta.detach()[..., 0]

    def score(self, b: Tensor) -> Tensor:
        loc, log_scale = self.wide_theta.detach().unbind(-1)
        inverse_scale = (-log_scale).exp()
        t = (b - loc) * inverse_scale
        df = self.df.to(t.dtype)
        # -t ∂ log p(t)/∂t, bounded: it goes to df + 1
        pull = (df + 1) * t / (df + t * t)
        return torch.stack([pull * inverse_scale, pull * t - 1], dim=-1)

    def path_gradient(self, b: Tensor, slope: Tensor) -> Tensor:
        return torch.stack([slope, slope * (b - self.wide_theta.detach()[..., 0])], dim=-1)
