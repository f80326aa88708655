"""Evolution strategies: the gradient of a black box in the weights that it reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sb3_relax.estimators.base import require_samples
from sb3_relax.estimators.objective import computed


class PerturbedEstimate:
    """What :func:`perturb` found.

    :param value: the mean of f over all calls, a scalar
    :param parameters: those that were perturbed
    :param grads: ĝ of each, of its shape
    """

    def __init__(self, value: Tensor, parameters: list[Tensor], grads: list[Tensor]):
        self.value = value
        self.parameters = parameters
        self.grads = grads

    def loss(self) -> Tensor:
        """A scalar, ``value``, whose ``backward()`` is :meth:`backward`: one loss among others, as any of torch's."""
        zeros = [((p - p.detach()) * g).sum() for p, g in zip(self.parameters, self.grads, strict=True)]
        return self.value + torch.stack([zero.to(self.value) for zero in zeros]).sum()

    def backward(self, weight: float = 1.0) -> None:
        """Accumulate ``weight`` · ĝ into the parameters' ``grad``."""
        for parameter, grad in zip(self.parameters, self.grads, strict=True):
            grad = weight * grad
            parameter.grad = grad if parameter.grad is None else parameter.grad + grad


def perturb(
    f: Callable[[], Any],
    parameters: Iterable[Tensor],
    scale: float = 0.02,
    pairs: int = 8,
    generator: torch.Generator | None = None,
) -> PerturbedEstimate:
    """∂θ E[f(θ + σε)], ε ~ N(0, 1), for the weights θ of a network, by antithetic perturbations::

        ĝ = 1/P Σ_i [f(θ + σε_i) - f(θ - σε_i)] ε_i / (2σ)

    f is called 2P times, with θ changed in place, and θ is put back to the last bit, whatever f does. f may be anything
    that gives a number: the return of an episode, an accuracy. It is differentiated nowhere, and must be the same
    function in all calls: seed what it draws. Unbiased for the smoothed E[f(θ + σε)]; its derivative is f's own up to
    the order of σ². The noise of the estimate grows with the number of weights: one step costs P pairs, and explores P
    directions of them.

    Where it is one loss among others that read the same weights, call it before those are computed: their graphs
    remember the weights, torch sees that these were written, and refuses the backward pass, though they are as before.

    Evolution strategies (arXiv:1703.03864), in a form of variational optimisation (arXiv:1212.4507) with a σ that is
    not learned. Where σ is to be learned, or θ is a distribution's own, take :class:`Mirrored`.

    :param f: without arguments → a number, or a tensor of one
    :param parameters: a module's ``parameters()``; those that do not require grad are left alone
    :param scale: σ, in the parameters' own units
    :param pairs: P
    :param generator: source of the noise, on the parameters' device
    :raises TypeError: where f returns something else than a real number, or there is no parameter that requires grad
    :raises ValueError: for a σ that is not positive, a P below 1, or a value of f that is not finite

    Example::

        optimizer.zero_grad()
        perturb(lambda: -episode_return(policy), policy.parameters(), scale=0.05, pairs=16).backward()
        optimizer.step()

        estimate = perturb(f, net.parameters())  # first
        (estimate.loss() + net(x).square().mean()).backward()
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be positive and finite; got {scale}")
    require_samples(pairs, least=1, what="pairs")
    weights = [parameter for parameter in parameters if parameter.requires_grad]
    if not weights:
        raise TypeError("perturb() has nothing to perturb: none of the parameters requires grad")
    before = [weight.detach().clone() for weight in weights]
    grads = [torch.zeros_like(weight) for weight in before]
    total = 0.0
    with torch.no_grad():
        try:
            for _ in range(pairs):
                noise = [torch.randn(w.shape, dtype=w.dtype, device=w.device, generator=generator) for w in before]
                up, down = (_at(f, weights, before, noise, sign * scale) for sign in (1, -1))
                total += up + down
                for grad, direction in zip(grads, noise, strict=True):
                    grad += antithetic_slope(up, down, scale) / pairs * direction
        finally:
            _put(weights, before)
    value = torch.tensor(total / (2 * pairs), dtype=before[0].dtype, device=before[0].device)
    return PerturbedEstimate(value, weights, grads)


def antithetic_slope(up: float, down: float, scale: float) -> float:
    """[f(θ + σε) - f(θ - σε)] / (2σ): what f rises by along ε."""
    return (up - down) / (2 * scale)


def _at(f: Callable[[], Any], weights: list[Tensor], before: list[Tensor], noise: list[Tensor], size: float) -> float:
    """f with ``size`` · noise added to the weights."""
    _put(weights, [w + size * direction for w, direction in zip(before, noise, strict=True)])
    value = f()
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value) if _is_number(value) else None
    if tensor is None or tensor.numel() != 1:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"f must return one number; got {got}")
    return computed(tensor.detach().reshape(()), torch.float64).item()


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _put(weights: list[Tensor], values: list[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
