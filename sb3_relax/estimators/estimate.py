"""What an estimator returns: ĝ per sample, and the backward passes of θ and φ (Eq 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sb3_relax.estimators.checks import are_finite, is_checked, require_finite
from sb3_relax.estimators.latents import Latent
from sb3_relax.estimators.moments import ChangeMoments, change_moments
from sb3_relax.estimators.precision import in_dtype, without_autocast

#: a cotangent of ĝ to pairs of a parameter in φ and its gradient
VJP = Callable[[Tensor], list[tuple[Tensor, Tensor]]]

#: tensors to start a backward pass from, and what each starts with
Roots = list[tuple[Tensor, Tensor]]


#: below this, no ‖ĝ‖² overflows on the way to φ
LARGE = 1e24


class Estimate:
    """One stochastic gradient, per sample.

    It is computed in the latent's ``computing_dtype``, and handed out in θ's own type: two types where θ is float16 or
    bfloat16, one otherwise.

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
        self.phi_loss = phi_loss
        self._learn = learn

    @property
    def grad(self) -> Tensor:
        """ĝ per sample at θ, detached, without the direct term of Eq 11, shape and type of ``latent.theta``."""
        return in_dtype(self._grad.detach(), self.latent.theta.dtype)

    @cached_property
    def score_term(self) -> Tensor:
        """f(b) ∂θ log p(b|θ): what ĝ would be without a control variate (Eq 2), per sample, detached, as computed."""
        if self.score is None:
            raise AttributeError("an estimate of several samples has no single score term")
        return expand_to(self.value.detach(), self.latent) * self.score

    @cached_property
    def grad_with_graph(self) -> Tensor:
        """ĝ with its graph to φ, as computed, for variance objectives other than :attr:`objective`."""
        if self._phi_vjp is None:
            return self._grad
        # not self.phi: the estimator does not know the parameters behind a surrogate that is no module
        try:
            phi = [parameter for parameter, _ in self._phi_vjp(torch.zeros_like(self._grad))]
        except RuntimeError:  # φ has moved on: the value is as it was, and a backward pass says so itself
            phi = list(self.phi)
        with torch.enable_grad():
            return _WithVJP.apply(self._grad, self._phi_vjp, *phi)

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

    @cached_property
    def moments(self) -> ChangeMoments:
        """Moments over the batch of the score term, and of what the control variate changes in it."""
        return change_moments(self.score_term, self._grad.detach(), self.latent.event_ndim)

    def backward(self) -> None:
        """Accumulate the batch mean of ĝ and of f's direct term (Eq 11) into what made θ and f, Eq 6's gradient into φ.

        Nothing else is touched: the variance reaches neither θ nor f, even where f is part of the control variate. Any
        of the three may be frozen: at a detached θ, φ alone is trained.

        :raises RuntimeError: where all three are frozen, and there are no statistics to learn
        :raises ValueError: where ĝ, or φ's gradient, is not finite, naming the sample; nothing is accumulated
        """
        # autograd.grad, never .backward(): the variance must not leak into θ or into what f shares with c
        phi = [parameter for parameter in self.phi if parameter.requires_grad]
        # f's graph may be shared with the direct term
        if not self.learns:
            require_some_grad([self.latent.theta, self.value, *phi])
        gradients = self.phi_gradients(phi, retain_graph=self.value.requires_grad) if phi else []
        roots = self.theta_root(1 / self.samples)
        self.require_finite_gradients(roots, gradients)
        backward_from([*roots, *direct_root(self.value)])
        accumulate(phi, gradients)
        self.learn()

    def require_finite_gradients(self, roots: Roots, gradients: Sequence[Tensor | None]) -> None:
        """Nothing to be accumulated is NaN or infinite.

        :param roots: of :meth:`theta_root`
        :param gradients: of φ
        :raises ValueError: naming the sample of the batch that made it so
        """
        for theta, vector in roots:
            computed_in = self._grad.dtype
            require_finite("ĝ" if theta.dtype == computed_in else f"ĝ in {theta.dtype}", vector, "scale f down")
        if not is_checked() or (are_finite(gradients) and not self.overflows_statistics):
            return
        if self._grad.detach().square().sum().item() < LARGE and not self.overflows_statistics:
            raise ValueError(
                "the gradient of the control variate must be finite; got NaN or infinity, although neither f nor ĝ is "
                "large: an operation of c has no finite derivative where it was evaluated, such as a square root at 0"
            )
        sizes = self._grad.detach().abs().flatten(-self.latent.event_ndim).amax(-1)
        at = tuple(int(i) for i in torch.unravel_index(sizes.argmax(), sizes.shape))
        raise ValueError(
            f"the squares that the control variate learns from must be finite in {self._grad.dtype}: ĝ is largest at "
            f"index {at} of the batch, up to {sizes[at].item():.3g}, where f(b) is {self.value[at].item():.3g}. Scale "
            "f down, or use an estimator that has nothing to learn, such as Reinforce or RLOO"
        )

    @property
    def overflows_statistics(self) -> bool:
        """Whether there are running statistics to learn of f's values, whose squares are not finite."""
        return self.learns and not bool(self.value.detach().square().isfinite().all())

    def theta_root(self, weight: float) -> Roots:
        """Where θ's backward pass starts, and with what: ``weight`` · ĝ at θ. None where θ is frozen.

        For a caller that backpropagates a loss of its own in the same pass; ``weight`` is negative where an optimizer
        descends.
        """
        theta = self.latent.theta
        return [(theta, in_dtype(self._grad.detach() * weight, theta.dtype))] if theta.requires_grad else []

    def learn(self) -> None:
        """Let running statistics take in this batch (part of :meth:`backward`)."""
        if self._learn is not None:
            self._learn()

    def phi_gradients(self, phi: Sequence[Tensor], retain_graph: bool = False) -> Sequence[Tensor | None]:
        """Eq 6's gradient (or that of the estimator's own loss for φ) for each of ``phi``, accumulated nowhere."""
        with without_autocast(self._grad.device):
            if self.phi_loss is not None:
                return torch.autograd.grad(self.phi_loss, phi, allow_unused=True)
            # ∂φ mean ‖ĝ‖² = 2/N ĝ · ∂φ ĝ
            cotangent = self._grad.detach() * (2 / self.samples)
            gradients: list[Tensor | None] = [None] * len(phi)
            if self._grad.requires_grad:
                gradients = list(
                    torch.autograd.grad(self._grad, phi, cotangent, allow_unused=True, retain_graph=retain_graph)
                )
            if self._phi_vjp is not None:
                gradients = _with_pairs(phi, gradients, self._phi_vjp(cotangent))
            return gradients


def direct_root(value: Tensor) -> Roots:
    """Where the backward pass of f's direct term starts (Eq 11), and with what; none where f has no graph.

    :param value: f(b), ``[*batch]``
    """
    return [(value, torch.full_like(value, 1 / max(value.numel(), 1)))] if value.requires_grad else []


def backward_from(roots: Roots) -> None:
    """One backward pass from all roots, where there are any."""
    if roots:
        tensors, vectors = zip(*roots, strict=True)
        torch.autograd.backward(tensors, vectors)


def accumulate(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Add gradients to the parameters' own, as ``backward()`` does."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


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
        with without_autocast(cotangent.device):
            return cotangent, None, *_with_pairs(ctx.phi, [None] * len(ctx.phi), ctx.vjp(cotangent))


def expand_to(weight: Tensor, latent: Latent) -> Tensor:
    """``[..., *batch]`` → ``[..., *batch, 1, ...]``, to multiply something of ``theta``'s shape."""
    return weight.reshape(weight.shape + (1,) * latent.event_ndim)
