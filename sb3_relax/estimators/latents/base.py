"""Latent variables: the distribution p(b|θ), its relaxation z and the conditional z̃ | b.

Every latent holds one parameter tensor ``theta`` of shape ``[*batch, *event]`` attached to whatever
made it. A sample is called ``b``. Discrete latents are ``b = H(z)`` of a continuous relaxation ``z``
(Gumbel-max; Maddison et al. 2017, Jang et al. 2017), and can draw ``z̃ ~ p(z | b, θ)`` from uniform
noise in log space (Tucker et al. 2017, appendix; Grathwohl et al. 2018, appendix B).

Continuous latents are b = T(θ, ε), whose samples move with θ while their noise stays.
"""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from sb3_relax.estimators.checks import require_tensors
from sb3_relax.estimators.precision import computing_dtype, in_dtype

#: The logit of a class that cannot be drawn. Finite, since -inf makes NaN gradients; large enough
#: that exp() of it is exactly zero in float32 and float64. See :func:`masked_logit`.
MASKED_LOGIT = -1e8

#: Most values of b that enumeration is asked to visit.
MAX_SUPPORT = 4096

SelfLatent = TypeVar("SelfLatent", bound="Latent")


def open_unit(u: Tensor) -> Tensor:
    """Move numbers of [0, 1] off its ends, where logarithms are infinite."""
    return u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps / 2)


def masked_logit(dtype: torch.dtype) -> float:
    """``MASKED_LOGIT``, or the least number of a type that does not reach so far: -65504 in float16."""
    return max(MASKED_LOGIT, torch.finfo(dtype).min)


class Latent(ABC):
    """A distribution p(b|θ) whose score ∂θ log p(b|θ) is known in closed form.

    θ keeps the type of what it was made of. Everything else, samples included, is computed in ``computing_dtype``.
    """

    #: number of trailing dimensions of ``theta`` that belong to one sample
    event_ndim: int
    #: the same of b
    sample_ndim: int
    theta: Tensor
    #: what is known of the input beside θ, ``[*batch, ...]``, for control variates; see :meth:`with_context`
    context: Tensor | None = None

    @property
    def computing_dtype(self) -> torch.dtype:
        """The type of samples, scores, noise and ĝ's arithmetic: θ's own, or float32 where θ is float16 or bfloat16.

        :raises TypeError: where θ is not made of floating-point numbers
        """
        return computing_dtype(self.theta.dtype)

    @property
    def wide_theta(self) -> Tensor:
        """θ in ``computing_dtype``, attached to θ: what everything is computed of."""
        return in_dtype(self.theta, self.computing_dtype)

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch: ``theta``'s without the event's dimensions."""
        return self.theta.shape[: self.theta.dim() - self.event_ndim]

    @property
    def sample_shape(self) -> torch.Size:
        """Shape of one b."""
        # θ may hold several parameters for each variable, in its last dimension
        return self.theta.shape[self.theta.dim() - self.event_ndim :][: self.sample_ndim]

    @property
    def variables(self) -> int:
        """D, the number of independent variables of one b."""
        return self.sample_shape[0]

    @property
    def noise_shape(self) -> torch.Size:
        """Shape of the uniform noise behind one z of every element of the batch: ``[*batch, ...]``."""
        return self.theta.shape

    @abstractmethod
    def at(self: SelfLatent, theta: Tensor) -> SelfLatent:
        """The same kind of latent with other parameters (a detached leaf, a stacked grid)."""

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw b, detached, in ``computing_dtype``."""

    @abstractmethod
    def log_prob(self, b: Tensor) -> Tensor:
        """log p(b|θ), ``[*batch]``, differentiable in θ."""

    @abstractmethod
    def score(self, b: Tensor) -> Tensor:
        """∂θ log p(b|θ), shape of ``theta``, detached from θ, in ``computing_dtype``."""

    def kl(self: SelfLatent, other: SelfLatent) -> Tensor:
        """KL(p(b|θ) ‖ p(b|θ')) in nats, ``[*batch]``, differentiable in both.

        :param other: of the same kind and shape, at θ'
        :raises NotImplementedError: for a kind of latent that does not have it
        """
        raise NotImplementedError(f"{type(self).__name__} has no kl(), which a step of a fixed KL divergence needs")

    def entropy(self) -> Tensor:
        """The entropy in nats, ``[*batch]``, differentiable in θ. Of numbers: the differential one.

        :raises NotImplementedError: for a kind of latent that has no closed form of it
        """
        raise NotImplementedError(f"{type(self).__name__} has no entropy() in closed form: -log_prob(b) has its mean")

    def mean(self) -> Tensor:
        """E[b], shape of b, detached; NaN or infinite where there is none.

        :raises NotImplementedError: for a kind of latent that does not have it
        """
        raise NotImplementedError(f"{type(self).__name__} has no mean()")

    def mode(self) -> Tensor:
        """The likeliest b, detached: what to take where nothing is to be drawn.

        :raises NotImplementedError: for a kind of latent that has no closed form of it
        """
        raise NotImplementedError(f"{type(self).__name__} has no mode() in closed form")

    def with_context(self: SelfLatent, context: Tensor) -> SelfLatent:
        """The same latent, with what is known of its input beside θ: what ``estimator(q, f, context=h)`` makes of q.

        Control variates read it and hold it fixed. It must have been known before b was drawn, or ĝ would be biased. An
        estimator without a control variate or a learned baseline does not look at it. It takes the place of a context
        that the latent had.

        :param context: ``[*batch, ...]``, detached here, floating-point numbers in ``computing_dtype``
        :raises TypeError: for what is no tensor
        :raises ValueError: where it does not begin with the batch's dimensions
        """
        require_tensors(context=context)
        batch = self.batch_shape
        if context.shape[: len(batch)] != batch:
            raise ValueError(
                f"the context must begin with the batch's shape {tuple(batch)}; got a tensor of shape "
                f"{tuple(context.shape)}"
            )
        latent = copy.copy(self)
        context = context.detach()
        latent.context = in_dtype(context, self.computing_dtype) if context.is_floating_point() else context
        return latent

    def context_for(self, reader: object, size: int) -> Tensor:
        """The context that a network reads, ``[*batch, size]``.

        :param reader: the network, for the error
        :raises TypeError: where there is none
        :raises ValueError: for one of another shape
        """
        name = type(reader).__name__
        if self.context is None:
            raise TypeError(
                f"this {name} reads a context of size {size}: call the estimator with context=, "
                "estimator(q, f, context=h)"
            )
        shape = (*self.batch_shape, size)
        if self.context.shape != shape:
            raise ValueError(f"this {name} reads a context of shape {shape}; got {tuple(self.context.shape)}")
        return self.context

    def each_variable(self: SelfLatent) -> SelfLatent:
        """The same variables, each as an element of the batch: ``[*batch, D]`` of one variable each.

        :raises TypeError: where the variables of one b are not independent, or not alike
        :raises ValueError: for a context that does not begin with ``[*batch, D]``
        """
        latent = self._apart()
        return latent if self.context is None else latent.with_context(self.context)

    def _apart(self: SelfLatent) -> SelfLatent:
        # one variable more before the event's dimensions makes the variables the batch's last
        return self.at(self.theta.unsqueeze(-self.event_ndim))

    def select(self: SelfLatent, index: Tensor | int) -> SelfLatent:
        """Some elements of the batch, by their number along its first dimension (a number, several, or a mask)."""
        return self._keeping_context(self.at(self.theta[index]), lambda context: context[index])

    def detach(self: SelfLatent) -> SelfLatent:
        """The same latent cut from whatever made θ."""
        return self._keeping_context(self.at(self.theta.detach()), lambda context: context)

    def expand(self: SelfLatent, *sizes: int) -> SelfLatent:
        """The same latent with further leading batch dimensions."""
        wide = self.at(self.theta.expand(*sizes, *self.theta.shape))
        return self._keeping_context(wide, lambda context: context.expand(*sizes, *context.shape))

    def _keeping_context(self: SelfLatent, other: SelfLatent, moved: Callable[[Tensor], Tensor]) -> SelfLatent:
        if self.context is not None:
            other.context = moved(self.context)
        return other

    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        """⟨x, y⟩ over the event of b: ``[..., *batch]``."""
        return (x * y).flatten(-self.sample_ndim).sum(-1)


class ConditionedLatent(Latent):
    """A latent b = H(z) of a z that moves with θ while its noise stays, and that can be drawn given b: for RELAX.

    z ~ p(z|θ) and z̃ ~ p(z|b, θ) have b's shape.
    """

    @abstractmethod
    def hard(self, z: Tensor) -> Tensor:
        """H(z): the value of b that z stands for."""

    @abstractmethod
    def sample_relaxed(self, generator: torch.Generator | None = None) -> Tensor:
        """z ~ p(z|θ), detached, whose H(z) is a sample of b: cheaper than b first and z given b."""

    @abstractmethod
    def conditional(self, b: Tensor, u: Tensor) -> Tensor:
        """z̃ ~ p(z | b, θ), differentiable in θ.

        :param b: a value of b, broadcastable to the result
        :param u: uniform noise on (0, 1), ``[..., *noise_shape]``
        """

    @abstractmethod
    def coupling(self, b: Tensor, z: Tensor) -> Tensor:
        """D, the share of ∂z/∂θ that ∂z̃/∂θ lacks where z and z̃ have one value: coupled RELAX's diagonal, shape of z.

        Of a discrete latent in the coordinates of its ``natural()``, where ∂z = 1 and D = ∂z - ∂z̃.
        """

    @abstractmethod
    def path_gradient(self, b: Tensor, slope: Tensor) -> Tensor:
        """``slope`` · ∂z/∂θ, the noise of z held fixed: shape of ``theta``, with the graph of ``slope``.

        :param b: the sample, ``[..., *batch, *event]``
        :param slope: a derivative in z, ``[..., *batch, *event]``
        """

    @abstractmethod
    def path_change(self, b: Tensor, v: Tensor) -> Tensor:
        """The change of z as ``theta`` moves by v: the transpose of :meth:`path_gradient`."""

    @abstractmethod
    def relax(self, z: Tensor, temperature: Tensor | float) -> Tensor:
        """The relaxed sample inside b's convex hull: σ(z/τ) or softmax(z/τ), H(z) as τ → 0; z where b = z."""

    @abstractmethod
    def relax_gradient(self, relaxed: Tensor, slope: Tensor, temperature: Tensor | float) -> Tensor:
        """``slope`` · ∂relax(z, τ)/∂z at ``relaxed`` = relax(z, τ): all three of z's shape."""

    @abstractmethod
    def relax_curvature(self, relaxed: Tensor, slope: Tensor, direction: Tensor, temperature: Tensor | float) -> Tensor:
        """∂⟨relax_gradient(relaxed, slope, τ), direction⟩/∂relaxed, for who differentiates :meth:`relax_gradient`."""

    @abstractmethod
    def cool(self, relaxed: Tensor, z: Tensor, slope: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
        """How ``relaxed`` = relax(z, τ) and ``slope`` = relax_gradient(relaxed, ·, τ) change as log τ falls.

        Of the slope only what 1/τ does, ``relaxed`` held fixed.
        """


class RelaxedLatent(ConditionedLatent):
    """A discrete latent b = H(z) with a continuous relaxation z."""

    def sample_relaxed(self, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            theta = self.wide_theta
            u = torch.rand(theta.shape, dtype=theta.dtype, device=theta.device, generator=generator)
            return self.natural() + self.base_noise(u)

    def path_gradient(self, b: Tensor, slope: Tensor) -> Tensor:
        return self.pull_back(slope)

    def path_change(self, b: Tensor, v: Tensor) -> Tensor:
        return self.push_forward(v)

    def cool(self, relaxed: Tensor, z: Tensor, slope: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
        return self.relax_gradient(relaxed, z, temperature), slope

    @abstractmethod
    def conditional_noise(self, b: Tensor, u: Tensor) -> Tensor:
        """The noise ``z̃ - natural`` of :meth:`conditional`, without what rounding loses where θ is large."""

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

    @property
    @abstractmethod
    def probs(self) -> Tensor:
        """p(bit = 1) or p(class), shape of b, differentiable in θ."""

    @abstractmethod
    def mean(self) -> Tensor:
        """μ = E[b], which is p: shape of b, detached."""

    @abstractmethod
    def mean_gradient(self, slope: Tensor) -> Tensor:
        """``slope`` · ∂μ/∂θ, shape of ``theta``: what a linear function of b contributes to the gradient."""

    @abstractmethod
    def support(self) -> Tensor:
        """Every value of b: ``[M, *event]``.

        :raises ValueError: where there are more than ``MAX_SUPPORT``
        """


class ReparameterisedLatent(ConditionedLatent):
    """A continuous latent whose sample moves with θ while its noise stays: b = T(θ, ε).

    It needs no relaxation: z is b itself, and z̃, which is given b, does not move with θ.
    """

    @property
    def noise_shape(self) -> torch.Size:
        return torch.Size([*self.batch_shape, 0])

    def hard(self, z: Tensor) -> Tensor:
        return z

    def sample_relaxed(self, generator: torch.Generator | None = None) -> Tensor:
        return self.sample(generator)

    def conditional(self, b: Tensor, u: Tensor) -> Tensor:
        return b.expand(*u.shape[:-1], *self.sample_shape)

    def coupling(self, b: Tensor, z: Tensor) -> Tensor:
        return torch.ones_like(z)

    def path_change(self, b: Tensor, v: Tensor) -> Tensor:
        with torch.enable_grad():
            slope = v.new_zeros(v.shape[: v.dim() - self.event_ndim] + self.sample_shape).requires_grad_()
            (change,) = torch.autograd.grad(self.path_gradient(b, slope), slope, v)
        return change

    def relax(self, z: Tensor, temperature: Tensor | float) -> Tensor:
        return z

    def relax_gradient(self, relaxed: Tensor, slope: Tensor, temperature: Tensor | float) -> Tensor:
        return slope

    def relax_curvature(self, relaxed: Tensor, slope: Tensor, direction: Tensor, temperature: Tensor | float) -> Tensor:
        return torch.zeros_like(relaxed)

    def cool(self, relaxed: Tensor, z: Tensor, slope: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(relaxed), torch.zeros_like(slope)


def require_unbatched(latent: Latent) -> None:
    """:raises ValueError: for a latent that is more than one event."""
    if len(latent.batch_shape) != 0:
        raise ValueError(f"the latent must have no batch dimensions; got {tuple(latent.batch_shape)}")


def check_support(size: int) -> None:
    """:raises ValueError: for more values than enumeration is asked to visit."""
    if size > MAX_SUPPORT:
        raise ValueError(
            f"enumeration would visit {size} values, more than {MAX_SUPPORT}; use a relaxed estimator (RELAX) instead"
        )


@lru_cache(maxsize=16)
def joint_choices(choices: tuple[tuple[int, ...], ...]) -> Tensor:
    """One of each: ``[M, D]``, the last varying fastest. Kept, since estimators ask for the same at every call."""
    return torch.tensor(list(itertools.product(*choices))).reshape(-1, len(choices))
