"""What an estimator returns, and the shape all estimators share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sb3_relax.estimators.functions import Objective, evaluate, require_finite
from sb3_relax.estimators.latents import Latent
from sb3_relax.estimators.quadrature import product_rule, unit_interval_rule

#: a cotangent of ĝ to pairs of a parameter in φ and its gradient
VJP = Callable[[Tensor], list[tuple[Tensor, Tensor]]]

SelfEstimator = TypeVar("SelfEstimator", bound="Estimator")


class Estimate:
    """One stochastic gradient, per sample.

    :param latent: the latent whose θ the gradient is taken at
    :param value: f(b), ``[*batch]`` (the mean over samples where there are several), attached to f's own graph
    :param grad: ĝ per sample at θ, shape of ``latent.theta``; of its graph, only what leads to ``phi`` is ever used
    :param score: ∂θ log p(b|θ), shape of ``latent.theta``, where the estimate has one sample
    :param phi: the parameters of the control variate
    :param phi_vjp: of a cotangent of ĝ, pairs of a parameter in ``phi`` and its gradient, for what of ``phi`` the graph
        of ``grad`` does not lead to
    :param phi_loss: a scalar to train ``phi`` on instead of Eq 6
    :param learn: called after :meth:`backward`, for running statistics
    """

    def __init__(
        self,
        latent: Latent,
        value: Tensor,
        grad: Tensor,
        *,
        score: Tensor | None = None,
        phi: Sequence[Tensor] = (),
        phi_vjp: VJP | None = None,
        phi_loss: Tensor | None = None,
        learn: Callable[[], None] | None = None,
    ):
        self.latent = latent
        self.value = value
        self.score = score
        self.phi = phi
        self._grad = grad
        self._phi_vjp = phi_vjp
        self._phi_loss = phi_loss
        self._learn = learn

    @property
    def grad(self) -> Tensor:
        """ĝ per sample at θ, detached, without the direct term of Eq 11, shape of ``latent.theta``."""
        return self._grad.detach()

    @cached_property
    def plain(self) -> Tensor:
        """f(b) ∂θ log p(b|θ): what ĝ would be without a control variate (Eq 2), per sample, detached."""
        if self.score is None:
            raise AttributeError("an estimate of several samples has no single score term")
        return expand_to(self.value.detach(), self.latent) * self.score

    @cached_property
    def grad_with_graph(self) -> Tensor:
        """ĝ with its graph to φ, for variance objectives other than :attr:`objective`."""
        if self._phi_vjp is None:
            return self._grad
        with torch.enable_grad():
            return _WithVJP.apply(self._grad, self._phi_vjp, *self.phi)

    @cached_property
    def objective(self) -> Tensor:
        """The batch mean of ‖ĝ‖²: its gradient in φ is the variance's (Eq 6), since E[ĝ] does not depend on φ."""
        return self.grad_with_graph.square().sum() / self.samples

    @property
    def learns(self) -> bool:
        """Whether :meth:`backward` updates running statistics."""
        return self._learn is not None

    @property
    def samples(self) -> int:
        """Number of gradients in the batch (1 for an empty batch shape, and for a batch of none)."""
        return max(self.latent.batch_shape.numel(), 1)

    def backward(self) -> None:
        """Accumulate the batch mean of ĝ and of f's direct term (Eq 11) into what made θ and f, Eq 6's gradient into φ.

        Nothing else is touched: the variance reaches neither θ nor f, even where f is part of the control variate. Any
        of the three may be frozen: at a detached θ, φ alone is trained.

        :raises RuntimeError: where all three are frozen, and there are no statistics to learn
        """
        # autograd.grad, never .backward(): the variance must not leak into θ or into what f shares with c
        phi = [parameter for parameter in self.phi if parameter.requires_grad]
        # f's graph may be shared with the direct term
        if not self.learns:
            require_some_grad([self.latent.theta, self.value, *phi])
        gradients = self.phi_gradients(phi, retain_graph=self.value.requires_grad) if phi else []
        self._add_theta_and_direct(self.value)
        for parameter, gradient in zip(phi, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        self.learn()

    def learn(self) -> None:
        """Let running statistics take in this batch (part of :meth:`backward`)."""
        if self._learn is not None:
            self._learn()

    def phi_gradients(self, phi: Sequence[Tensor], retain_graph: bool = False) -> Sequence[Tensor | None]:
        """Eq 6's gradient (or that of the estimator's own loss for φ) for each of ``phi``, accumulated nowhere."""
        if self._phi_loss is not None:
            return torch.autograd.grad(self._phi_loss, phi, allow_unused=True)
        # ∂φ mean ‖ĝ‖² = 2/N ĝ · ∂φ ĝ
        cotangent = self.grad * (2 / self.samples)
        gradients: list[Tensor | None] = [None] * len(phi)
        if self._grad.requires_grad:
            gradients = list(
                torch.autograd.grad(self._grad, phi, cotangent, allow_unused=True, retain_graph=retain_graph)
            )
        if self._phi_vjp is not None:
            gradients = _with_pairs(phi, gradients, self._phi_vjp(cotangent))
        return gradients

    def _add_theta_and_direct(self, value: Tensor) -> None:
        roots, vectors = [], []
        if self.latent.theta.requires_grad:
            roots.append(self.latent.theta)
            vectors.append(self.grad / self.samples)
        if value.requires_grad:
            roots.append(value)
            vectors.append(torch.full_like(value, 1 / self.samples))
        if roots:
            torch.autograd.backward(roots, vectors)


def require_some_grad(tensors: Sequence[Tensor]) -> None:
    """Something would receive a gradient, as torch's own ``backward()`` asks.

    :param tensors: every θ, f's value and φ
    :raises RuntimeError: otherwise
    """
    if not any(tensor.requires_grad for tensor in tensors):
        raise RuntimeError(
            "backward() has nowhere to put a gradient: neither the latent's parameters θ, nor f, nor the control "
            "variate requires grad. Make the latent of a tensor with requires_grad=True, or of what a network gives "
            "outside torch.no_grad()"
        )


def _with_pairs(
    phi: Sequence[Tensor], gradients: Sequence[Tensor | None], pairs: list[tuple[Tensor, Tensor]]
) -> list[Tensor | None]:
    """``gradients`` of ``phi``, and those of ``pairs`` added to them."""
    total = list(gradients)
    for parameter, gradient in pairs:
        for i, other in enumerate(phi):
            if other is parameter:
                before = total[i]
                total[i] = gradient if before is None else before + gradient
    return total


class _WithVJP(torch.autograd.Function):
    """ĝ, whose backward pass to φ is a function already known."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, vjp: VJP, *phi: Tensor) -> Tensor:
        ctx.vjp, ctx.phi = vjp, phi
        return grad.view_as(grad)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        return cotangent, None, *_with_pairs(ctx.phi, [None] * len(ctx.phi), ctx.vjp(cotangent))


class Estimator(nn.Module, ABC):
    """A gradient estimator: ``estimator(latent, f)`` gives an :class:`Estimate` of ∂θ E[f(b)].

    Its parameters, as a module, are φ. What it consumes is declared, so that tests and tools need no special cases:
    ``samples`` independent draws of b (0: b is made from the noise), uniforms of shape :meth:`noise_shape`, and
    ``evaluations`` calls of f per element of the batch.
    """

    #: whether E[ĝ] is the exact gradient
    unbiased: ClassVar[bool] = True
    #: whether ∂f/∂b is needed: f must then be differentiable torch code that accepts relaxed samples
    needs_grad_f: ClassVar[bool] = False
    #: the latents it takes
    latents: ClassVar[tuple[type[Latent], ...]]
    #: calls of f per element of the batch
    evaluations: float = 1
    #: independent draws of b
    samples: int = 1
    #: whether f is evaluated between the corners (which :func:`layered` must know)
    relaxes_f: ClassVar[bool] = False
    #: whether ĝ is f's own derivative along the sample's path, so that f must be differentiable whole
    pathwise: ClassVar[bool] = False

    @property
    def temperature_between_corners(self) -> Tensor | float | None:
        """τ at which f is evaluated between the corners, where it is: :func:`layered` makes the layers above alike."""
        return None

    @classmethod
    def make(cls: type[SelfEstimator], latent: Latent, **kwargs: Any) -> SelfEstimator:
        """This estimator with default parts (surrogate, baseline, temperature) fitting ``latent``."""
        return cls(**kwargs)

    @abstractmethod
    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        """The estimate for given randomness.

        :param latent: the distribution, θ ``[*batch, *event]``
        :param f: the objective, ``[..., *batch, *event of b]`` → ``[..., *batch]``
        :param b: ``samples`` draws, ``[*batch, *event]`` (with a leading dimension where there are several)
        :param noise: uniforms of shape :meth:`noise_shape`
        """

    def forward(self, latent: Latent, f: Objective, generator: torch.Generator | None = None) -> Estimate:
        """Draw, evaluate f and estimate.

        :param latent: the distribution, θ ``[*batch, *event]``, attached to whatever made it
        :param f: ``[*batch, *event of b]`` → ``[*batch]``; estimators with several samples (or evaluations in one call)
            put them in a leading dimension. It may depend on θ and on parameters of its own (Eq 11)
        :param generator: source of all randomness
        :raises TypeError: for a latent this estimator does not take, or an f without the gradient it needs
        :raises ValueError: for a θ, or a value of f, that is not finite, or a value of the wrong shape
        """
        self.require_latent(latent)
        require_finite("the latent's parameters", latent.theta)
        return self.estimate(latent, f, self.draw(latent, generator), self.draw_noise(latent, generator))

    def draw(self, latent: Latent, generator: torch.Generator | None = None) -> Tensor | None:
        """``samples`` independent draws of b, in a leading dimension where there are several; ``None`` for none."""
        if self.samples == 0:
            return None
        if self.samples == 1:
            return latent.sample(generator)
        return latent.expand(self.samples).sample(generator)

    def noise_shape(self, latent: Latent) -> tuple[int, ...] | None:
        """Shape of the uniform noise one estimate consumes beyond b; ``None`` where there is none."""
        return None

    def draw_noise(self, latent: Latent, generator: torch.Generator | None = None) -> Tensor | None:
        """Uniform noise of shape :meth:`noise_shape`."""
        shape = self.noise_shape(latent)
        if shape is None:
            return None
        theta = latent.theta
        return torch.rand(shape, dtype=theta.dtype, device=theta.device, generator=generator)

    def noise_rule(self, latent: Latent, nodes: int, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Nodes ``[n, θ.numel()]`` and weights ``[n]`` that integrate ĝ over its uniform noise, for one θ.

        Tanh-sinh, for integrands that are smooth inside (0, 1); overridden where they have jumps.
        """
        return product_rule(unit_interval_rule(nodes), latent.theta.numel(), chunk)

    def target(self, values: Tensor) -> Tensor:
        """Whose expectation is differentiated, of f's values at the samples ``[K, *batch]``: their mean."""
        return values.mean(0)

    def require_latent(self, latent: Latent) -> None:
        """Refuse a latent this estimator does not take, naming what would do.

        :raises TypeError: listing the latents of this estimator, and the estimators of this latent
        """
        if not isinstance(latent, self.latents):
            from sb3_relax.estimators.registry import estimators_of  # the registry knows every class, this one included

            accepted = ", ".join(kind.__name__ for kind in self.latents)
            raise TypeError(
                f"{type(self).__name__} takes {accepted}; got {type(latent).__name__}, "
                f"which these take: {', '.join(estimators_of(latent))}"
            )


class TwoPhaseEstimator(Estimator):
    """An estimator that needs no more of f than its value: the caller may draw b first and know f(b) later."""

    @abstractmethod
    def finish(
        self,
        latent: Latent,
        b: Tensor,
        value: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """The estimate for samples already drawn and evaluated.

        :param latent: the distribution b was drawn from
        :param b: samples, detached
        :param value: f(b), ``[*batch]`` (with b's leading dimension, where there are several samples)
        :param noise: uniforms of shape :meth:`noise_shape`; drawn from ``generator`` where ``None``
        :param generator: source of the noise
        :raises TypeError: for a latent this estimator does not take
        :raises ValueError: for a value or noise of the wrong shape, or a value that is not finite
        """

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        return self.finish(latent, b, evaluate(f, b, self._value_shape(latent)), noise)

    def _value_shape(self, latent: Latent) -> torch.Size:
        return latent.batch_shape if self.samples == 1 else torch.Size([self.samples, *latent.batch_shape])

    def _check(self, latent: Latent, value: Tensor) -> None:
        self.require_latent(latent)
        expected = self._value_shape(latent)
        if value.shape != expected:
            raise ValueError(f"f(b) must have the batch's shape {tuple(expected)}; got {tuple(value.shape)}")
        require_finite("f(b)", value.detach())

    def _noise(self, latent: Latent, noise: Tensor | None, generator: torch.Generator | None) -> Tensor:
        if noise is None:
            noise = self.draw_noise(latent, generator)
        shape = self.noise_shape(latent)
        assert noise is not None
        assert shape is not None
        if tuple(noise.shape) != shape:
            raise ValueError(f"noise must have shape {shape}; got {tuple(noise.shape)}")
        return noise


def expand_to(weight: Tensor, latent: Latent) -> Tensor:
    """``[..., *batch]`` → ``[..., *batch, 1, ...]``, to multiply something of ``theta``'s shape."""
    return weight.reshape(weight.shape + (1,) * latent.event_ndim)


def baseline_of(baseline: nn.Module, latent: Latent) -> Tensor:
    """A learned baseline of the detached θ, ``[*batch]``.

    :raises ValueError: where it returns another shape
    """
    fitted = baseline(latent.theta.detach())
    if fitted.shape != latent.batch_shape:
        raise ValueError(
            f"the baseline must have the batch's shape {tuple(latent.batch_shape)}; got {tuple(fitted.shape)}"
        )
    return fitted


def require_samples(samples: int, least: int = 2, what: str = "samples") -> int:
    """A number of samples or draws.

    :raises ValueError: where it is not a whole number of at least ``least``
    """
    if not isinstance(samples, int) or samples < least:
        raise ValueError(f"{what} must be a whole number of at least {least}; got {samples!r}")
    return samples


def leave_one_out_mean(values: Tensor) -> Tensor:
    """mean_{j≠k} v_j for every k along the first dimension, whose size K must be at least 2."""
    return (values.sum(0, keepdim=True) - values) / (len(values) - 1)
