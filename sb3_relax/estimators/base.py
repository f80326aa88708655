"""What an estimator returns, and the shape all estimators share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from sb3_relax.estimators.latents import Latent

#: c_φ: maps relaxed or hard samples ``[..., *batch, *event]`` to values ``[..., *batch]``.
Surrogate = Callable[[Tensor], Tensor]


class Estimate:
    """One stochastic gradient, per sample.

    :param latent: the latent whose θ the gradient is taken at
    :param value: f(b), ``[*batch]``
    :param score: ∂θ log p(b|θ), shape of ``latent.theta``
    :param grad: ĝ per sample at θ, shape of ``latent.theta``; its graph, if any, leads to φ alone
    """

    def __init__(self, latent: Latent, value: Tensor, score: Tensor, grad: Tensor):
        self.latent = latent
        self.value = value
        self.score = score
        self._grad = grad

    @property
    def grad(self) -> Tensor:
        """ĝ per sample at θ, detached, shape of ``latent.theta``."""
        return self._grad.detach()

    @cached_property
    def plain(self) -> Tensor:
        """f(b) ∂θ log p(b|θ): what ĝ would be without a control variate (Eq 2), per sample."""
        return expand_to(self.value, self.latent) * self.score

    @property
    def grad_with_graph(self) -> Tensor:
        """ĝ with its graph to φ, for variance objectives other than :attr:`objective`."""
        return self._grad

    @cached_property
    def objective(self) -> Tensor:
        """The batch mean of ‖ĝ‖²: its gradient in φ is the variance's (Eq 6), since E[ĝ] does not depend on φ."""
        return self._grad.square().sum() / self.samples

    @property
    def samples(self) -> int:
        """Number of samples in the batch (1 for an empty batch shape)."""
        return max(self.latent.batch_shape.numel(), 1)

    def loss(self, grad: Tensor | None = None) -> Tensor:
        """A scalar whose gradient in θ is the batch mean of ``grad`` (ĝ where ``None``)."""
        return (self.latent.theta * (self.grad if grad is None else grad)).sum() / self.samples

    def backward(self, phi: Iterable[Tensor] = ()) -> None:
        """Accumulate the batch mean of ĝ into what made θ, and Eq 6's gradient into ``phi``, nothing else anywhere.

        :param phi: the surrogate's parameters
        """
        phi = list(phi)
        if phi:
            # autograd.grad, never .backward(): the variance must not leak into θ or into what f shares with c
            for parameter, gradient in zip(phi, torch.autograd.grad(self.objective, phi), strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        if self.latent.theta.requires_grad:
            self.loss().backward()


class Estimator(ABC):
    """A gradient estimator in two phases: the caller draws b and learns f(b) later, then calls :meth:`finish`."""

    #: whether E[ĝ] is the exact gradient
    unbiased: ClassVar[bool]
    #: the latents it takes
    latents: ClassVar[tuple[type[Latent], ...]]

    @abstractmethod
    def finish(
        self,
        latent: Latent,
        b: Tensor,
        value: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """The estimate for samples already drawn.

        :param latent: the distribution b was drawn from
        :param b: samples, detached
        :param value: f(b), ``[*batch]``
        :param noise: uniforms of shape :meth:`noise_shape`; drawn from ``generator`` where ``None``
        :param generator: source of the noise
        :raises TypeError: for a latent this estimator does not take
        :raises ValueError: for a value of the wrong shape
        """

    def noise_shape(self, latent: Latent) -> tuple[int, ...] | None:
        """Shape of the uniform noise one estimate consumes beyond b; ``None`` where there is none."""
        return None

    def __call__(
        self, latent: Latent, f: Callable[[Tensor], Tensor], generator: torch.Generator | None = None
    ) -> Estimate:
        """Draw b, evaluate f and finish."""
        b = latent.sample(generator)
        return self.finish(latent, b, f(b).detach(), generator=generator)

    def _check(self, latent: Latent, value: Tensor) -> None:
        if not isinstance(latent, self.latents):
            accepted = ", ".join(kind.__name__ for kind in self.latents)
            raise TypeError(f"{type(self).__name__} takes {accepted}; got {type(latent).__name__}")
        if value.shape != latent.batch_shape:
            raise ValueError(f"f(b) must have the batch's shape {tuple(latent.batch_shape)}; got {tuple(value.shape)}")

    def _noise(self, latent: Latent, noise: Tensor | None, generator: torch.Generator | None) -> Tensor:
        shape = self.noise_shape(latent)
        assert shape is not None
        if noise is None:
            theta = latent.theta
            return torch.rand(shape, dtype=theta.dtype, device=theta.device, generator=generator)
        if tuple(noise.shape) != shape:
            raise ValueError(f"noise must have shape {shape}; got {tuple(noise.shape)}")
        return noise


def value_and_slope(surrogate: Surrogate, z: Tensor) -> tuple[Tensor, Tensor]:
    """c(z) ``[..., *batch]`` and ∂c/∂z, shape of z, both with graphs to φ alone.

    Taken from the surrogate's own ``value_and_slope`` where it has one (a closed form saves the second derivative that
    training φ needs), else from autograd.
    """
    closed_form = getattr(surrogate, "value_and_slope", None)
    if closed_form is not None:
        return closed_form(z)
    z = z.detach().requires_grad_()
    c = surrogate(z)
    (slope,) = torch.autograd.grad(c.sum(), z, create_graph=True)
    return c, slope


def expand_to(weight: Tensor, latent: Latent) -> Tensor:
    """``[..., *batch]`` → ``[..., *batch, 1, ...]``, to multiply something of ``theta``'s shape."""
    return weight.reshape(weight.shape + (1,) * latent.event_ndim)
