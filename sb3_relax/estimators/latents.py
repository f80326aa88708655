"""Latent variables: the distribution p(b|θ), its relaxation z and the conditional z̃ | b.

Every latent holds one parameter tensor ``theta`` of shape ``[*batch, *event]`` attached to whatever
made it. A sample is called ``b``. Discrete latents are ``b = H(z)`` of a continuous relaxation ``z``
(Gumbel-max; Maddison et al. 2017, Jang et al. 2017), and can draw ``z̃ ~ p(z | b, θ)`` from uniform
noise in log space (Tucker et al. 2017, appendix; Grathwohl et al. 2018, appendix B).

Shapes: ``LogisticBernoulli`` θ ``[*batch, D]``, b and z alike. ``GumbelOneHot`` θ ``[*batch, D, K]``,
b one-hot along K. Continuous latents are in ``reparameterised.py``.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sb3_relax.estimators.functions import under_transform

#: The logit of a class that cannot be drawn. Finite, since -inf makes NaN gradients; large enough
#: that exp() of it is exactly zero in float32 and float64.
MASKED_LOGIT = -1e8

#: Most values of b that enumeration is asked to visit.
MAX_SUPPORT = 4096

SelfLatent = TypeVar("SelfLatent", bound="Latent")


def open_unit(u: Tensor) -> Tensor:
    """Move numbers of [0, 1] off its ends, where logarithms are infinite."""
    return u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps / 2)


class Latent(ABC):
    """A distribution p(b|θ) whose score ∂θ log p(b|θ) is known in closed form."""

    #: number of trailing dimensions of ``theta`` that belong to one sample
    event_ndim: int
    #: the same of b
    sample_ndim: int
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

    def expand(self: SelfLatent, *sizes: int) -> SelfLatent:
        """The same latent with further leading batch dimensions."""
        return self.at(self.theta.expand(*sizes, *self.theta.shape))

    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        """⟨x, y⟩ over the event of b: ``[..., *batch]``."""
        return (x * y).flatten(-self.sample_ndim).sum(-1)


class RelaxedLatent(Latent):
    """A discrete latent b = H(z) with a continuous relaxation z."""

    @abstractmethod
    def hard(self, z: Tensor) -> Tensor:
        """H(z): the discrete value that z stands for."""

    def sample_relaxed(self, generator: torch.Generator | None = None) -> Tensor:
        """z ~ p(z|θ), detached, whose H(z) is a sample of b: cheaper than b first and z given b."""
        with torch.no_grad():
            theta = self.theta
            u = torch.rand(theta.shape, dtype=theta.dtype, device=theta.device, generator=generator)
            return self.natural() + self.base_noise(u)

    @abstractmethod
    def conditional(self, b: Tensor, u: Tensor) -> Tensor:
        """z̃ ~ p(z | b, θ), differentiable in θ.

        :param b: discrete value, broadcastable to ``u``
        :param u: uniform noise on (0, 1), ``[..., *theta.shape]``
        """

    @abstractmethod
    def conditional_noise(self, b: Tensor, u: Tensor) -> Tensor:
        """The noise ``z̃ - natural`` of :meth:`conditional`, without what rounding loses where θ is large."""

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
    def push_forward(self, v: Tensor) -> Tensor:
        """The change of :meth:`natural` as ``theta`` moves by v: the transpose of :meth:`pull_back`."""

    @abstractmethod
    def base_noise(self, u: Tensor) -> Tensor:
        """The noise of ``z = natural + noise`` from uniforms of θ's shape: logistic or Gumbel."""

    @abstractmethod
    def base_score(self, noise: Tensor) -> Tensor:
        """∂ log p(z) at :meth:`natural`, as a function of the noise ``z - natural``."""

    @abstractmethod
    def relax(self, z: Tensor, temperature: Tensor | float) -> Tensor:
        """The relaxed sample inside b's convex hull: σ(z/τ) or softmax(z/τ); H(z) as τ → 0."""

    @abstractmethod
    def relax_gradient(self, relaxed: Tensor, slope: Tensor, temperature: Tensor | float) -> Tensor:
        """``slope`` · ∂relax(z, τ)/∂z at ``relaxed`` = relax(z, τ): shape of z."""

    @abstractmethod
    def mean(self) -> Tensor:
        """μ = E[b], shape of b, detached."""

    @abstractmethod
    def mean_gradient(self, slope: Tensor) -> Tensor:
        """``slope`` · ∂μ/∂θ, shape of ``theta``: what a linear function of b contributes to the gradient."""

    @abstractmethod
    def support(self) -> Tensor:
        """Every value of b: ``[M, *event]``.

        :raises ValueError: where there are more than ``MAX_SUPPORT``
        """


def require_unbatched(latent: Latent) -> None:
    """:raises ValueError: for a latent that is more than one event."""
    if len(latent.batch_shape) != 0:
        raise ValueError(f"the latent must have no batch dimensions; got {tuple(latent.batch_shape)}")


def _check_support(size: int) -> None:
    if size > MAX_SUPPORT:
        raise ValueError(
            f"enumeration would visit {size} values, more than {MAX_SUPPORT}; use a relaxed estimator (RELAX) instead"
        )


class LogisticBernoulli(RelaxedLatent):
    """D independent Bernoulli bits, relaxed by logistic noise: z = l + log u - log(1-u), b = 1[z > 0].

    In float32 the uniforms are multiples of 2^-24, so probabilities below 6e-8 are not resolved by samples.

    :param logits: l, ``[*batch, D]``
    """

    event_ndim = 1
    sample_ndim = 1

    def __init__(self, logits: Tensor):
        if logits.dim() < 1:
            raise ValueError("logits must have at least one dimension, the bits: [*batch, D]; got a scalar")
        self.theta = logits

    def at(self, theta: Tensor) -> LogisticBernoulli:
        return LogisticBernoulli(theta)

    @cached_property
    def probabilities(self) -> Tensor:
        """p(bit = 1), shape of θ, detached."""
        return self.theta.detach().sigmoid()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        # a comparison, twice as fast on a CPU as torch.bernoulli
        p = self.probabilities
        return (torch.rand(p.shape, dtype=p.dtype, device=p.device, generator=generator) < p).to(p.dtype)

    def log_prob(self, b: Tensor) -> Tensor:
        return F.logsigmoid((2 * b - 1) * self.theta).sum(-1)

    def score(self, b: Tensor) -> Tensor:
        return b - self.probabilities

    def hard(self, z: Tensor) -> Tensor:
        return (z > 0).to(z.dtype)

    def natural(self) -> Tensor:
        return self.theta

    def pull_back(self, g: Tensor) -> Tensor:
        return g

    def push_forward(self, v: Tensor) -> Tensor:
        return v

    def conditional(self, b: Tensor, u: Tensor) -> Tensor:
        # survival function of a logistic truncated to the side of b, inverted: s·[softplus(s·l + log(1-v)) - log v]
        u = open_unit(u)
        sign = 2 * b - 1
        return sign * (F.softplus(sign * self.theta + torch.log1p(-u)) - u.log())

    def conditional_noise(self, b: Tensor, u: Tensor) -> Tensor:
        # as above, with the part of softplus(x) that grows taken off s·l by hand
        u = open_unit(u)
        sign = 2 * b - 1
        inside = torch.log1p(-u)
        x = sign * self.theta + inside
        return sign * (torch.where(x > 0, inside, -sign * self.theta) + F.softplus(-x.abs()) - u.log())

    def base_noise(self, u: Tensor) -> Tensor:
        # in one kernel; on a CPU no uniform lies between 0 and half its type's eps
        return u.logit(eps=torch.finfo(u.dtype).eps / 2)

    def base_score(self, noise: Tensor) -> Tensor:
        return torch.tanh(noise / 2)

    def relax(self, z: Tensor, temperature: Tensor | float) -> Tensor:
        return (z / temperature).sigmoid()

    def relax_gradient(self, relaxed: Tensor, slope: Tensor, temperature: Tensor | float) -> Tensor:
        return relaxed * (1 - relaxed) * slope / temperature

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
    sample_ndim = 2

    def __init__(self, logits: Tensor, mask: Tensor | None = None):
        if logits.dim() < 2:
            raise ValueError(
                f"logits must be [*batch, D, K], variables and classes last; got shape {tuple(logits.shape)}: "
                "for one variable, logits.unsqueeze(-2)"
            )
        if mask is not None:
            if not under_transform() and not bool(mask.any(-1).all()):
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
        if self.mask is not None:
            # the relaxation gives a masked class noise of its own, which must not move its logit
            g = g.masked_fill(~self.mask, 0.0)
        return g - self.probabilities * g.sum(-1, keepdim=True)

    def push_forward(self, v: Tensor) -> Tensor:
        change = v - (self.probabilities * v).sum(-1, keepdim=True)
        return change if self.mask is None else change.masked_fill(~self.mask, 0.0)

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
        log_exponential = (-open_unit(u).log()).log()
        # the drawn class: a Gumbel located at logsumexp of the normalised logits, which is 0
        minus_top = (b * log_exponential).sum(-1, keepdim=True)
        top = -minus_top
        rest = -torch.logaddexp(minus_top, log_exponential - self.natural())
        # rounding may tie a likely class with the drawn one; H(z̃) = b must hold for every sample
        below = torch.nextafter(top, top.new_tensor(-torch.inf))  # top holds no θ, so nor does this
        return torch.where(b.bool(), top, torch.minimum(rest, below))

    def conditional_noise(self, b: Tensor, u: Tensor) -> Tensor:
        # as above; a masked class keeps the noise that its logit of -1e8 would swallow
        log_exponential = (-open_unit(u).log()).log()
        minus_top = (b * log_exponential).sum(-1, keepdim=True)
        natural = self.natural()
        return torch.where(b.bool(), -minus_top - natural, -torch.logaddexp(minus_top + natural, log_exponential))

    def base_noise(self, u: Tensor) -> Tensor:
        return -(-open_unit(u).log()).log()

    def base_score(self, noise: Tensor) -> Tensor:
        return -torch.expm1(-noise)

    def relax(self, z: Tensor, temperature: Tensor | float) -> Tensor:
        return (z / temperature).softmax(-1)

    def relax_gradient(self, relaxed: Tensor, slope: Tensor, temperature: Tensor | float) -> Tensor:
        return relaxed * (slope - (relaxed * slope).sum(-1, keepdim=True)) / temperature

    def mean(self) -> Tensor:
        return self.probabilities

    def mean_gradient(self, slope: Tensor) -> Tensor:
        return self.pull_back(self.probabilities * slope)

    def coupling(self, b: Tensor, z: Tensor) -> Tensor:
        return (z - z.amax(-1, keepdim=True)).exp()

    def support(self) -> Tensor:
        dim, classes = self.theta.shape[-2:]
        allowed = torch.ones(dim, classes, dtype=torch.bool)
        if self.mask is not None:
            # a class is left out only where no sample of the batch may draw it
            rows = self.mask.expand(self.theta.shape).reshape(-1, dim, classes)
            allowed = rows.any(0).cpu() if len(rows) else allowed
        choices = [row.nonzero().flatten().tolist() for row in allowed]
        size = 1
        for choice in choices:
            size *= len(choice)
        _check_support(size)
        index = torch.tensor(list(itertools.product(*choices)), device=self.theta.device).reshape(size, dim)
        return F.one_hot(index, classes).to(self.theta.dtype)
