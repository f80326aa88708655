"""Bits, relaxed by logistic noise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sb3_relax.estimators.checks import require_tensors
from sb3_relax.estimators.kept import kept_of_theta
from sb3_relax.estimators.latents.base import RelaxedLatent, check_support, joint_choices, open_unit


class LogisticBernoulli(RelaxedLatent):
    """D independent Bernoulli bits, relaxed by logistic noise: z = l + log u - log(1-u), b = 1[z > 0].

    In float32 the uniforms are multiples of 2^-24, so probabilities below 6e-8 are not resolved by samples.

    :param logits: l, ``[*batch, D]``
    """

    event_ndim = 1
    sample_ndim = 1

    def __init__(self, logits: Tensor):
        require_tensors(logits=logits)
        if logits.dim() < 1:
            raise ValueError("logits must have at least one dimension, the bits: [*batch, D]; got a scalar")
        self.theta = logits

    def at(self, theta: Tensor) -> LogisticBernoulli:
        return LogisticBernoulli(theta)

    @kept_of_theta
    def probabilities(self) -> Tensor:
        """p(bit = 1), shape of θ, detached."""
        return self.wide_theta.detach().sigmoid()

    @property
    def probs(self) -> Tensor:
        return self.wide_theta.sigmoid()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        # a comparison, twice as fast on a CPU as torch.bernoulli
        p = self.probabilities
        return (torch.rand(p.shape, dtype=p.dtype, device=p.device, generator=generator) < p).to(p.dtype)

    def log_prob(self, b: Tensor) -> Tensor:
        return F.logsigmoid((2 * b - 1) * self.wide_theta).sum(-1)

    def kl(self, other: LogisticBernoulli) -> Tensor:
        p = self.wide_theta.sigmoid()
        of_ones = F.logsigmoid(self.wide_theta) - F.logsigmoid(other.wide_theta)
        of_zeros = F.logsigmoid(-self.wide_theta) - F.logsigmoid(-other.wide_theta)
        return (p * of_ones + (1 - p) * of_zeros).sum(-1)

    def entropy(self) -> Tensor:
        theta, p = self.wide_theta, self.probs
        return -(p * F.logsigmoid(theta) + (1 - p) * F.logsigmoid(-theta)).sum(-1)

    def mode(self) -> Tensor:
        return self.hard(self.wide_theta.detach())

    def score(self, b: Tensor) -> Tensor:
        return b - self.probabilities

    def hard(self, z: Tensor) -> Tensor:
        return (z > 0).to(z.dtype)

    def natural(self) -> Tensor:
        return self.wide_theta

    def pull_back(self, g: Tensor) -> Tensor:
        return g

    def push_forward(self, v: Tensor) -> Tensor:
        return v

    def conditional(self, b: Tensor, u: Tensor) -> Tensor:
        # survival function of a logistic truncated to the side of b, inverted: s·[softplus(s·l + log(1-v)) - log v]
        u = open_unit(u)
        sign = 2 * b - 1
        return sign * (F.softplus(sign * self.wide_theta + torch.log1p(-u)) - u.log())

    def conditional_noise(self, b: Tensor, u: Tensor) -> Tensor:
        # as above, with the part of softplus(x) that grows taken off s·l by hand
        u = open_unit(u)
        sign, theta = 2 * b - 1, self.wide_theta
        inside = torch.log1p(-u)
        x = sign * theta + inside
        return sign * (torch.where(x > 0, inside, -sign * theta) + F.softplus(-x.abs()) - u.log())

    def base_noise(self, u: Tensor) -> Tensor:
        # in one kernel; on a CPU no uniform lies between 0 and half its type's eps
        return u.logit(eps=torch.finfo(u.dtype).eps / 2)

    def base_score(self, noise: Tensor) -> Tensor:
        return torch.tanh(noise / 2)

    def relax(self, z: Tensor, temperature: Tensor | float) -> Tensor:
        return (z / temperature).sigmoid()

    def relax_gradient(self, relaxed: Tensor, slope: Tensor, temperature: Tensor | float) -> Tensor:
        return relaxed * (1 - relaxed) * slope / temperature

    def relax_curvature(self, relaxed: Tensor, slope: Tensor, direction: Tensor, temperature: Tensor | float) -> Tensor:
        return (1 - 2 * relaxed) * slope * direction / temperature

    def mean(self) -> Tensor:
        return self.probabilities

    def mean_gradient(self, slope: Tensor) -> Tensor:
        return slope * self.probabilities * (1 - self.probabilities)

    def coupling(self, b: Tensor, z: Tensor) -> Tensor:
        # 1 - p_b (1 - e) with e = e^{-|z|}; as |b - p| = 1 - p_b, that is |b - p| + e - |b - p| e
        other, e = self.score(b).abs(), torch.exp(-z.abs())
        return torch.addcmul(other + e, other, e, value=-1)

    def support(self) -> Tensor:
        dim = self.theta.shape[-1]
        check_support(2**dim)
        return joint_choices(((0, 1),) * dim).to(self.theta.device, self.computing_dtype)
