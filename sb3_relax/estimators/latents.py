"""Latent variables: the distribution p(b|θ), its relaxation z and the conditional z̃ | b.

Every latent holds one parameter tensor ``theta`` of shape ``[*batch, *event]`` attached to whatever
made it. A sample is called ``b``. Discrete latents are ``b = H(z)`` of a continuous relaxation ``z``
(Gumbel-max; Maddison et al. 2017, Jang et al. 2017), and can draw ``z̃ ~ p(z | b, θ)`` from uniform
noise in log space (Tucker et al. 2017, appendix; Grathwohl et al. 2018, appendix B).

Shapes: ``LogisticBernoulli`` θ ``[*batch, D]``, b and z alike. ``GumbelOneHot`` θ ``[*batch, D, K]``,
b one-hot along K. ``Gaussian`` θ ``[*batch, D, 2]`` (mean, log-std), b ``[*batch, D]``.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

#: The logit of a class that cannot be drawn. Finite, since -inf makes NaN gradients; large enough
#: that exp() of it is exactly zero in float32 and float64.
MASKED_LOGIT = -1e8

#: Most values of b that enumeration is asked to visit.
MAX_SUPPORT = 4096

SelfLatent = TypeVar("SelfLatent", bound="Latent")
SelfRelaxed = TypeVar("SelfRelaxed", bound="RelaxedLatent")


def _open_uniform(u: Tensor) -> Tensor:
    """Move uniforms off 0 and 1, where the samplers' logarithms are infinite."""
    return u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps / 2)


class Latent(ABC):
    """A distribution p(b|θ) whose score ∂θ log p(b|θ) is known in closed form."""

    #: number of trailing dimensions of ``theta`` that belong to one sample
    event_ndim: int
    theta: Tensor

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch: ``theta``'s without the event's dimensions."""
        return self.theta.shape[: self.theta.dim() - self.event_ndim]

    @abstractmethod
    def at(self: SelfLatent, theta: Tensor) -> SelfLatent:
        """The same kind of latent with other parameters (a detached leaf, a stacked grid)."""

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw b, detached."""

    @abstractmethod
    def log_prob(self, b: Tensor) -> Tensor:
        """log p(b|θ), ``[*batch]``, differentiable in θ."""

    @abstractmethod
    def score(self, b: Tensor) -> Tensor:
        """∂θ log p(b|θ), shape of ``theta``, detached from θ."""

    def detach(self: SelfLatent) -> SelfLatent:
        """The same latent cut from whatever made θ."""
        return self.at(self.theta.detach())


class RelaxedLatent(Latent):
    """A discrete latent b = H(z) with a continuous relaxation z."""

    @abstractmethod
    def hard(self, z: Tensor) -> Tensor:
        """H(z): the discrete value that z stands for."""

    @abstractmethod
    def conditional(self, b: Tensor, u: Tensor) -> Tensor:
        """z̃ ~ p(z | b, θ), differentiable in θ.

        :param b: discrete value, broadcastable to ``u``
        :param u: uniform noise on (0, 1), ``[..., *theta.shape]``
        """

    @abstractmethod
    def coupling(self, b: Tensor, z: Tensor) -> Tensor:
        """D = ∂z/∂θ - ∂z̃/∂θ where z and z̃ share one value: the diagonal used by coupled RELAX.

        In the coordinates of :meth:`natural`, not of ``theta``.
        """

    @abstractmethod
    def natural(self) -> Tensor:
        """The coordinates in which ``z = natural + noise`` (normalised log-probabilities, or the logits)."""

    @abstractmethod
    def pull_back(self, g: Tensor) -> Tensor:
        """Carry a gradient at :meth:`natural` back to one at ``theta``."""

    @abstractmethod
    def support(self) -> Tensor:
        """Every value of b: ``[M, *event]``.

        :raises ValueError: where there are more than ``MAX_SUPPORT``
        """

    def reparameterised(self, b: Tensor, u: Tensor) -> Tensor:
        """z ~ p(z|θ) given that H(z) = b was seen: the noise is recovered from b, then held fixed.

        Averaged over b this is a draw of z, and ∂z/∂θ is the unconditional one: no noise needs storing.
        """
        natural = self.natural()
        return natural + (self.conditional(b, u) - natural).detach()


def _check_support(size: int) -> None:
    if size > MAX_SUPPORT:
        raise ValueError(
            f"enumeration would visit {size} values, more than {MAX_SUPPORT}; use a relaxed estimator (RELAX) instead"
        )


class LogisticBernoulli(RelaxedLatent):
    """D independent Bernoulli bits, relaxed by logistic noise: z = l + log u - log(1-u), b = 1[z > 0].

    :param logits: l, ``[*batch, D]``
    """

    event_ndim = 1

    def __init__(self, logits: Tensor):
        self.theta = logits

    def at(self, theta: Tensor) -> LogisticBernoulli:
        return LogisticBernoulli(theta)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            return torch.bernoulli(self.theta.sigmoid(), generator=generator)

    def log_prob(self, b: Tensor) -> Tensor:
        return F.logsigmoid((2 * b - 1) * self.theta).sum(-1)

    def score(self, b: Tensor) -> Tensor:
        return b - self.theta.detach().sigmoid()

    def hard(self, z: Tensor) -> Tensor:
        return (z > 0).to(z.dtype)

    def natural(self) -> Tensor:
        return self.theta

    def pull_back(self, g: Tensor) -> Tensor:
        return g

    def conditional(self, b: Tensor, u: Tensor) -> Tensor:
        # survival function of a logistic truncated to the side of b, inverted: s·[softplus(s·l + log(1-v)) - log v]
        u = _open_uniform(u)
        sign = 2 * b - 1
        return sign * (F.softplus(sign * self.theta + torch.log1p(-u)) - u.log())

    def coupling(self, b: Tensor, z: Tensor) -> Tensor:
        # 1 - p_b (1 - e^{-|z|}), with 1 - e^{-|z|} = -expm1(-|z|)
        prob_b = ((2 * b - 1) * self.theta.detach()).sigmoid()
        return 1 + prob_b * torch.expm1(-z.abs())

    def support(self) -> Tensor:
        dim = self.theta.shape[-1]
        _check_support(2**dim)
        return torch.tensor(
            list(itertools.product((0.0, 1.0), repeat=dim)), dtype=self.theta.dtype, device=self.theta.device
        ).reshape(-1, dim)


class GumbelOneHot(RelaxedLatent):
    """D independent one-hot variables of K classes, relaxed by Gumbel noise: z = log p + G, b = onehot(argmax z).

    The relaxation lives in normalised log-probabilities, where the Gumbel of the chosen class has location 0
    (not log p_b, a known bug); gradients are carried back to ``logits`` by the softmax's Jacobian, so they sum to
    zero over the classes of a variable.

    :param logits: ``[*batch, D, K]``, normalised or not
    :param mask: ``True`` where a class may be drawn, broadcastable to ``logits``; ``None`` allows all
    :raises ValueError: where a variable has no class left
    """

    event_ndim = 2

    def __init__(self, logits: Tensor, mask: Tensor | None = None):
        if mask is not None:
            if not bool(mask.any(-1).all()):
                raise ValueError("the mask leaves a variable without any class; at least one must be allowed")
            logits = torch.where(mask, logits, torch.full((), MASKED_LOGIT, dtype=logits.dtype, device=logits.device))
        self.theta = logits
        self.mask = mask

    def at(self, theta: Tensor) -> GumbelOneHot:
        latent = GumbelOneHot(theta)
        latent.mask = self.mask  # theta carries the masked logits already
        return latent

    @cached_property
    def probabilities(self) -> Tensor:
        """p(class), shape of θ, detached."""
        return self.theta.detach().softmax(-1)

    def natural(self) -> Tensor:
        return self.theta.log_softmax(-1)

    def pull_back(self, g: Tensor) -> Tensor:
        return g - self.probabilities * g.sum(-1, keepdim=True)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            classes = self.theta.shape[-1]
            flat = self.probabilities.reshape(-1, classes)
            index = torch.multinomial(flat, 1, generator=generator).reshape(self.theta.shape[:-1])
            return F.one_hot(index, classes).to(self.theta.dtype)

    def log_prob(self, b: Tensor) -> Tensor:
        return (b * self.natural()).sum((-2, -1))

    def score(self, b: Tensor) -> Tensor:
        return b - self.probabilities

    def hard(self, z: Tensor) -> Tensor:
        return F.one_hot(z.argmax(-1), z.shape[-1]).to(z.dtype)

    def conditional(self, b: Tensor, u: Tensor) -> Tensor:
        log_exponential = (-_open_uniform(u).log()).log()
        # the drawn class: a Gumbel located at logsumexp of the normalised logits, which is 0
        minus_top = (b * log_exponential).sum(-1, keepdim=True)
        top = -minus_top
        rest = -torch.logaddexp(minus_top, log_exponential - self.natural())
        # rounding may tie a likely class with the drawn one; H(z̃) = b must hold for every sample
        below = torch.nextafter(top, top.new_tensor(-torch.inf))  # top holds no θ, so nor does this
        return torch.where(b.bool(), top, torch.minimum(rest, below))

    def coupling(self, b: Tensor, z: Tensor) -> Tensor:
        return (z - z.amax(-1, keepdim=True)).exp()

    def support(self) -> Tensor:
        dim, classes = self.theta.shape[-2:]
        allowed = torch.ones(dim, classes, dtype=torch.bool)
        if self.mask is not None:
            # a class is left out only where no sample of the batch may draw it
            allowed = self.mask.expand(self.theta.shape).reshape(-1, dim, classes).any(0).cpu()
        choices = [row.nonzero().flatten().tolist() for row in allowed]
        size = 1
        for choice in choices:
            size *= len(choice)
        _check_support(size)
        index = torch.tensor(list(itertools.product(*choices)), device=self.theta.device).reshape(size, dim)
        return F.one_hot(index, classes).to(self.theta.dtype)


class Gaussian(Latent):
    """D independent normals b = μ + σ ε.

    :param loc: μ, ``[*batch, D]``
    :param log_scale: log σ, broadcastable to ``loc``
    """

    event_ndim = 2

    def __init__(self, loc: Tensor, log_scale: Tensor):
        self.theta = torch.stack([loc, log_scale.expand_as(loc)], dim=-1)

    def at(self, theta: Tensor) -> Gaussian:
        latent = Gaussian.__new__(Gaussian)
        latent.theta = theta
        return latent

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            loc, log_scale = self.theta.unbind(-1)
            noise = torch.randn(loc.shape, dtype=loc.dtype, device=loc.device, generator=generator)
            return loc + log_scale.exp() * noise

    def log_prob(self, b: Tensor) -> Tensor:
        loc, log_scale = self.theta.unbind(-1)
        return torch.distributions.Normal(loc, log_scale.exp()).log_prob(b).sum(-1)

    def score(self, b: Tensor) -> Tensor:
        loc, log_scale = self.theta.detach().unbind(-1)
        inverse_scale = (-log_scale).exp()
        noise = (b - loc) * inverse_scale
        return torch.stack([noise * inverse_scale, noise * noise - 1], dim=-1)

    def path(self, b: Tensor) -> Tensor:
        """∂b/∂θ with the noise ε = (b - μ)/σ of this very b held fixed: (1, b - μ), shape of ``theta``."""
        offset = b - self.theta.detach()[..., 0]
        return torch.stack([torch.ones_like(offset), offset], dim=-1)
