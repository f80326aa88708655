"""What an estimator returns: ĝ per sample, and the backward passes of θ and φ (Eq 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sb3_relax.estimators.checks import are_finite, is_checked, require_finite
from sb3_relax.estimators.held import held
from sb3_relax.estimators.kept import kept
from sb3_relax.estimators.latents import Latent
from sb3_relax.estimators.memory_layout import laid_out_as
from sb3_relax.estimators.moments import ChangeMoments, change_moments
from sb3_relax.estimators.precision import in_dtype, without_autocast
from sb3_relax.estimators.unstepped import Unstepped

#: a cotangent of ĝ to pairs of a parameter in φ and its gradient; called without autograd
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
    :param score_term: what ĝ would be without a control variate, where that is another than f(b) times ``score``
    :param phi: the parameters of the control variate
    :param phi_vjp: of a cotangent of ĝ, pairs of a parameter in ``phi`` and its gradient, for what of ``phi`` the graph
        of ``grad`` does not lead to
    :param phi_loss: a scalar to train ``phi`` on instead of Eq 6
    :param learn: called after :meth:`backward`, for running statistics
    :raises ValueError: for a ĝ of another shape than θ's
    """

    def __init__(
        self,
        latent: Latent,
        value: Tensor,
        grad: Tensor,
        *,
        score: Tensor | None = None,
        score_term: Tensor | None = None,
        phi: Sequence[Tensor] = (),
        phi_vjp: VJP | None = None,
        phi_loss: Tensor | None = None,
        learn: Callable[[], None] | None = None,
    ):
        if grad.shape != latent.theta.shape:
            raise ValueError(
                f"ĝ must have the shape of the latent's theta, {tuple(latent.theta.shape)}; got {tuple(grad.shape)}: "
                f"of {type(latent).__name__}, score(b) and path_gradient(b, slope) have that shape, and log_prob(b) "
                f"the batch's, {tuple(latent.batch_shape)}"
            )
        self.latent = latent
        self.value = value
        self.score = score
        self._score_term = score_term
        self.phi = phi
        self._grad = grad
        self._phi_vjp = phi_vjp
        self.phi_loss = phi_loss
        self._learn = learn
        #: what counts the backward passes of its estimator
        self.watched_by: Unstepped | None = None

    @property
    def grad(self) -> Tensor:
        """ĝ per sample at θ, detached, without the direct term of Eq 11, shape and type of ``latent.theta``."""
        return in_dtype(self._grad.detach(), self.latent.theta.dtype)

    @kept
    def score_term(self) -> Tensor:
        """f(b) ∂θ log p(b|θ): what ĝ would be without a control variate (Eq 2), per sample, detached, as computed."""
        if self._score_term is not None:
            return self._score_term
        if self.score is None:
            raise AttributeError("an estimate of several samples has no single score term")
        return expand_to(self.value.detach(), self.latent) * self.score

    @kept
    def grad_with_graph(self) -> Tensor:
        """ĝ with its graph to φ, as computed, for variance objectives other than :attr:`objective`."""
        if self._phi_vjp is None:
            return self._grad
        # not self.phi: the estimator does not know the parameters behind a surrogate that is no module
        try:
            with torch.no_grad():
                phi = [parameter for parameter, _ in self._phi_vjp(torch.zeros_like(self._grad))]
        except RuntimeError:  # φ has moved on: the value is as it was, and a backward pass says so itself
            phi = list(self.phi)
        with torch.enable_grad():
            return _WithVJP.apply(self._grad, self._phi_vjp, *phi)

    @kept
    def objective(self) -> Tensor:
        """The batch mean of ‖ĝ‖²: its gradient in φ is the variance's (Eq 6), since E[ĝ] does not depend on φ."""
        return self.grad_with_graph.square().sum() / self.samples

    @property
    def samples(self) -> int:
        """Number of gradients in the batch (1 for an empty batch shape, and for a batch of none)."""
        return max(self.latent.batch_shape.numel(), 1)

    @kept
    def moments(self) -> ChangeMoments:
        """Moments over the batch of the score term, and of what the control variate changes in it."""
        return change_moments(self.score_term, self._grad.detach(), self.latent.event_ndim)

    def loss(self) -> Tensor:
        """A scalar, the batch mean of f(b), whose ``backward()`` is :meth:`backward`.

        It can be added to other losses, scaled, divided by the number of batches whose gradients are accumulated,
        handed to a GradScaler, or returned by a module inside DistributedDataParallel. A factor w of it, negative or
        not, scales θ's and f's gradients by w, and φ's by abs(w): φ lowers the variance whichever way θ goes.

        φ's gradient is taken here, by this call. The backward pass needs the graphs of what made θ and f, no others.

        :raises ValueError: where ĝ, or φ's gradient, is not finite, naming the sample

        Example::

            (estimate.loss() + kl.mean()).backward()
        """
        return self.carried_by(mean_of(self.value))

    def backward(self, weight: float | Tensor = 1.0, retain_graph: bool = False) -> None:
        """Accumulate the batch mean of ĝ and of f's direct term (Eq 11) into what made θ and f, Eq 6's gradient into φ.

        Nothing else is touched: the variance reaches neither θ nor f, even where f is part of the control variate. Any
        of the three may be frozen: at a detached θ, φ alone is trained.

        :param weight: w, a number: the first two times w, φ's gradient times abs(w)
        :param retain_graph: keep the graph of what made θ and f, for another backward pass through it
        :raises RuntimeError: where all three are frozen, and there are no statistics to learn
        :raises ValueError: where ĝ, or φ's gradient, is not finite, naming the sample; nothing is accumulated
        """
        backward_of([self], self.value, weight, retain_graph)

    def carried_by(self, number: Tensor) -> Tensor:
        """The same number, whose backward pass also has ĝ for θ, Eq 6's gradient for φ, and the running statistics."""
        if not torch.is_grad_enabled():
            return number
        phi, of_phi = self._eq_6
        passed: Callable[[], None] | None = None
        if torch.compiler.is_compiling():  # which cannot see what a backward pass does beside its gradients
            self.learn()
        else:
            passed = partial(_passed, self)
        return _Carrier.apply(number, passed, self._grad.detach() / self.samples, of_phi, self.latent.theta, *phi)

    @kept
    def _eq_6(self) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
        """The parameters in φ that are trained, and their gradients: taken once, whatever backward passes there are.

        They, and ĝ, are finite.

        By autograd.grad, never by .backward(): the variance must not leak into θ or into what f shares with c. Their
        graph is kept, since f's may be part of it, and so may that of the layers above.
        """
        phi = [parameter for parameter in self.phi if parameter.requires_grad]
        gradients = self.phi_gradients(phi, retain_graph=True) if phi else []
        _require_finite(self, gradients)
        return phi, gradients

    def theta_root(self, weight: float | Tensor) -> Roots:
        """Where θ's backward pass starts, and with what: ``weight`` · ĝ at θ. None where θ is frozen.

        For a caller that backpropagates a loss of its own in the same pass; ``weight`` is negative where an optimizer
        descends.
        """
        theta = self.latent.theta
        return [(theta, in_dtype(self._grad.detach() * weight, theta.dtype))] if theta.requires_grad else []

    def learn(self) -> None:
        """Let running statistics take in this batch, once (part of :meth:`backward`)."""
        learn, self._learn = self._learn, None
        if learn is not None:
            learn()

    def phi_gradients(self, phi: Sequence[Tensor], retain_graph: bool = False) -> Sequence[Tensor | None]:
        """Eq 6's gradient (or that of the estimator's own loss for φ) for each of ``phi``, accumulated nowhere."""
        with without_autocast(self._grad.device):
            if self.phi_loss is not None:
                return torch.autograd.grad(self.phi_loss, phi, allow_unused=True, retain_graph=retain_graph)
            # ∂φ mean ‖ĝ‖² = 2/N ĝ · ∂φ ĝ
            cotangent = self._grad.detach() * (2 / self.samples)
            gradients: list[Tensor | None] = [None] * len(phi)
            if self._grad.requires_grad:
                gradients = list(
                    torch.autograd.grad(self._grad, phi, cotangent, allow_unused=True, retain_graph=retain_graph)
                )
            if self._phi_vjp is not None:
                with torch.no_grad():
                    gradients = _with_pairs(phi, gradients, self._phi_vjp(cotangent))
            return gradients


def _require_finite(estimate: Estimate, gradients: Sequence[Tensor | None]) -> None:
    """Nothing to be accumulated is NaN or infinite.

    :param gradients: of φ
    :raises ValueError: naming the sample of the batch that made it so
    """
    for theta, vector in estimate.theta_root(1 / estimate.samples):
        name = "ĝ" if theta.dtype == estimate._grad.dtype else f"ĝ in {theta.dtype}"
        of_c = "θ and f(b) are finite, so that the control variate, its slope or the latent's score is not"
        require_finite(name, vector, if_infinite="scale f down", if_nan=of_c)
    if not is_checked():
        return
    # of f's values, whose squares running statistics are made of
    overflows = estimate._learn is not None and not bool(estimate.value.detach().square().isfinite().all())
    if are_finite(gradients) and not overflows:
        return
    if estimate._grad.detach().square().sum().item() < LARGE and not overflows:
        raise ValueError(
            "the gradient of the control variate must be finite; got NaN or infinity, although neither f nor ĝ is "
            "large: an operation of c has no finite derivative where it was evaluated, such as a square root at 0"
        )
    sizes = estimate._grad.detach().abs().flatten(-estimate.latent.event_ndim).amax(-1)
    at = tuple(int(i) for i in torch.unravel_index(sizes.argmax(), sizes.shape))
    raise ValueError(
        f"the squares that the control variate learns from must be finite in {estimate._grad.dtype}: ĝ is largest at "
        f"index {at} of the batch, up to {sizes[at].item():.3g}, where f(b) is {estimate.value[at].item():.3g}. Scale "
        "f down, or use an estimator that has nothing to learn, such as Reinforce or RLOO"
    )


def as_one_of(estimate: Estimate, latent: Latent) -> Estimate:
    """An estimate of ``latent.each_variable()`` as one of ``latent``: its value is the sum over the variables."""
    vjp, shape = estimate._phi_vjp, estimate._grad.shape
    score = estimate.score
    return Estimate(
        latent,
        estimate.value.sum(-1),
        estimate._grad.reshape(latent.theta.shape),
        score=None if score is None else score.reshape(latent.theta.shape),
        score_term=None if score is None else estimate.score_term.reshape(latent.theta.shape),
        phi=estimate.phi,
        phi_vjp=None if vjp is None else lambda cotangent: vjp(cotangent.reshape(shape)),
        phi_loss=estimate.phi_loss,
        learn=estimate._learn,
    )


def mean_of(value: Tensor) -> Tensor:
    """The mean of f, attached to f's own graph, and 0 of a batch of none: what the direct term starts from (Eq 11)."""
    return value.sum() / max(value.numel(), 1)


def backward_of(estimates: Sequence[Estimate], value: Tensor, weight: float | Tensor, retain_graph: bool) -> None:
    """What the backward pass of the loss of one or several estimates does, without the graph of that loss.

    :param value: f, whose direct term is theirs together
    :param weight: of the loss
    :raises RuntimeError: where nothing has a gradient, unless running statistics are all that an estimator ever learns
    :raises ValueError: for a weight that is several numbers
    """
    if isinstance(weight, Tensor) and weight.numel() != 1:
        raise ValueError(
            f"weight must be one number; got a tensor of shape {tuple(weight.shape)}. To weigh the samples, multiply "
            "f's values by their weights"
        )
    with torch.enable_grad():
        of_phi: list[tuple[Tensor, Tensor | None]] = []
        for estimate in estimates:
            of_phi.extend(zip(*estimate._eq_6, strict=True))
    roots = [root for estimate in estimates for root in estimate.theta_root(weight / estimate.samples)]
    if value.requires_grad:
        roots.append((value, torch.full_like(value, 1 / max(value.numel(), 1)) * weight))
    if not (roots or of_phi or any(e._learn is not None and not e.phi for e in estimates)):
        raise RuntimeError(
            "backward() has nowhere to put a gradient: neither the latent's parameters θ, nor f, nor the control "
            "variate requires grad. Make the latent of a tensor with requires_grad=True, or of what a network gives "
            "outside torch.no_grad()"
        )
    if roots:
        tensors, vectors = zip(*roots, strict=True)
        torch.autograd.backward(tensors, vectors, retain_graph=retain_graph)
    size = weight.abs() if isinstance(weight, Tensor) else abs(weight)
    with torch.no_grad():
        for parameter, gradient in of_phi:
            if gradient is not None:
                scaled = laid_out_as(parameter, gradient * size)
                parameter.grad = scaled if parameter.grad is None else parameter.grad + scaled
    for estimate in estimates:
        _passed(estimate)


def _passed(estimate: Estimate) -> None:
    """What comes after an estimate's backward pass, beside its gradients."""
    estimate.learn()
    if estimate.watched_by is not None:
        estimate.watched_by.passed(*estimate._eq_6)


def _with_pairs(
    phi: Sequence[Tensor], gradients: Sequence[Tensor | None], pairs: list[tuple[Tensor, Tensor]]
) -> list[Tensor | None]:
    """``gradients`` of ``phi``, and those of ``pairs`` added to them, in the parameters' own types."""
    total = list(gradients)
    for parameter, computed in pairs:
        gradient = in_dtype(computed, parameter.dtype)
        for i, other in enumerate(phi):
            if other is parameter:
                before = total[i]
                total[i] = gradient if before is None else before + gradient
    return total


class _Carrier(torch.autograd.Function):
    """A number as it is, and other tensors whose gradients are already known."""

    @staticmethod
    def forward(
        ctx: Any,
        number: Tensor,
        passed: Callable[[], None] | None,
        of_theta: Tensor,
        of_phi: Sequence[Tensor | None],
        theta: Tensor,
        *phi: Tensor,
    ) -> Tensor:
        ctx.passed, ctx.dtype = passed, theta.dtype
        if torch.compiler.is_compiling():
            number, of_theta, *rest = held([number, of_theta, *(g for g in of_phi if g is not None)])
            of_phi = [None if g is None else rest.pop(0) for g in of_phi]
        else:
            number = number.clone()
        ctx.of_theta, ctx.of_phi = of_theta, of_phi
        return number

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.passed is not None:
            ctx.passed()
        # scaled as computed, and rounded then: so a GradScaler keeps what float16 could not tell from 0
        of_theta = in_dtype(weight * ctx.of_theta, ctx.dtype)
        size = weight.abs()
        return weight, None, None, None, of_theta, *(None if g is None else size * g for g in ctx.of_phi)


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
