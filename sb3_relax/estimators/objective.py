"""Calling f: its samples' types and shapes, and its gradient with respect to them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sb3_relax.estimators.checks import require_differentiable, require_finite, under_transform
from sb3_relax.estimators.latents import Latent
from sb3_relax.estimators.precision import in_dtype, keep_autocast

#: f: maps samples ``[..., *batch, *event]`` to values ``[..., *batch]``.
Objective = Callable[[Tensor], Tensor]


def as_written(f: Objective, latent: Latent) -> Objective:
    """f as its author expects it to be called: with samples in θ's own type, and under the autocast that is on now.

    Its samples are copies. An f that writes into them, as numpy code may, must not change what is scored afterwards.
    """
    f = keep_autocast(f, latent.theta.device)
    dtype = latent.theta.dtype
    return lambda b: f(b.to(dtype, copy=True))


def flatten_samples(f: Callable[..., Tensor], *inputs: Tensor, event_ndim: int = 1) -> Objective:
    """f as the estimators call it, of an f that takes one batch dimension: ``f(b, *inputs)``, b ``[N, *event]`` → [N].

    Estimators that evaluate several samples at once put them in a leading dimension, ``[K, B, *event]``. An f with
    layers that want ``[N, D]``, or with inputs ``[B, ...]``, is handed K · B samples in one dimension, and the inputs
    of each.

    :param f: ``[N, *event]`` and one ``[N, ...]`` for each of ``inputs`` → ``[N]``
    :param inputs: what f takes besides, ``[B, ...]``
    :param event_ndim: dimensions of one sample: 1 for bits and numbers, 2 for one-hots
    :raises ValueError: when called, for samples whose batch is not that of the inputs

    Example::

        RLOO(samples=8)(q, flatten_samples(loss, images, labels))
    """

    def of_samples(b: Tensor) -> Tensor:
        leading = b.shape[: b.dim() - event_ndim]
        for x in inputs:
            if not leading or x.shape[:1] != leading[-1:]:
                raise ValueError(
                    f"for events of {event_ndim} dimensions, samples of shape {tuple(b.shape)} have the batch's shape "
                    f"{tuple(leading[-1:])}; an input has shape {tuple(x.shape)}. Say event_ndim=2 for one-hots"
                )
        several = [x.expand(*leading[:-1], *x.shape).flatten(0, len(leading) - 1) for x in inputs]
        return f(b.reshape(-1, *b.shape[len(leading) :]), *several).unflatten(0, leading)

    return of_samples


def computed(value: Tensor, dtype: torch.dtype) -> Tensor:
    """f(b) in the type that ĝ is computed in, whatever f's own is: a number, a whole number or a truth value.

    :raises TypeError: for anything but a tensor of real numbers
    :raises ValueError: for a value that is not finite, or is too large for the type
    """
    if not isinstance(value, Tensor) or value.is_complex():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        remedy = (
            "" if isinstance(value, Tensor) else ": torch.as_tensor(...) makes one of numpy's arrays and of numbers"
        )
        raise TypeError(f"f must return a tensor of real numbers; got {got}{remedy}")
    own, value = value.dtype, in_dtype(value, dtype)
    require_finite("f(b)" if own == dtype else f"f(b) in {dtype}", value.detach())
    return value


def evaluate(f: Objective, b: Tensor, shape: torch.Size) -> Tensor:
    """f(b), checked, in the type of b.

    :param shape: what f must return
    :raises TypeError: where f returns anything but a tensor of real numbers
    :raises ValueError: where f returns another shape, or a value that is not finite
    """
    value = computed(f(b), b.dtype)
    if value.shape != shape:
        raise ValueError(
            f"f must return one value per sample: for samples of shape {tuple(b.shape)} "
            f"a tensor of shape {tuple(shape)}; got {tuple(value.shape)}"
            + ("" if shape else ". The latent has no batch: all of its variables are those of one sample")
        )
    return value


def evaluate_with_slope(
    f: Objective, z: Tensor, shape: torch.Size, who: str, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """f(z) and ∂f/∂z per sample, for estimators that need f's gradient.

    :param z: where to take them; its own graph (to a temperature, say) is kept
    :param who: the estimator, for the error
    :param create_graph: whether the slope needs a graph of its own (to φ)
    :return: the value, attached to f's own graph, and the slope, shape of z
    :raises RuntimeError: under ``torch.inference_mode()``
    :raises TypeError: where f returns a value without a graph to its input (a black box)
    :raises ValueError: for a value or a slope that is not finite, with its index
    """
    require_differentiable(f"{who} needs ∂f/∂b")
    if under_transform() or torch.compiler.is_compiling():
        return functional_value_and_slope(f, z)
    z = z if z.requires_grad else z.detach().requires_grad_()
    slope = None
    with torch.enable_grad():  # whole: the caller may be under no_grad, where even a sum has no graph
        value = evaluate(f, z, shape)
        if value.requires_grad:
            (slope,) = torch.autograd.grad(
                value.sum(), z, create_graph=create_graph, retain_graph=True, allow_unused=True
            )
    if slope is None:
        raise TypeError(
            f"{who} needs ∂f/∂b, but f returned a value without a graph to its input (a black box, a constant, or, "
            "below other layers, an f that knows this one only through the samples of those above). "
            "Use an estimator that needs none, such as RLOO or, with a learned control variate, RELAX for bits and "
            "one-hots and LAX for continuous samples"
        )
    require_finite("∂f/∂b", slope.detach())
    return value, slope


def slope_and_curvature(
    f: Objective, z: Tensor, shape: torch.Size, who: str
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """∂f/∂z per sample, and the map v → ∂²f/∂z² v, both without graphs: for estimators that need f's curvature.

    :param z: where to take them, ``[..., *batch, *event]``
    :param who: the estimator, for the error
    :raises TypeError: where f returns a value without a graph to its input
    :raises ValueError: for a value, a slope or a curvature that is not finite
    """
    if under_transform() or torch.compiler.is_compiling():
        slope, pulled, *_ = torch.func.vjp(lambda z: functional_value_and_slope(f, z)[1], z)
        return slope, lambda v: pulled(v)[0]
    z = z.detach().requires_grad_()
    _, slope = evaluate_with_slope(f, z, shape, who, create_graph=True)

    def curved(v: Tensor) -> Tensor:
        if not slope.requires_grad:  # f is linear
            return torch.zeros_like(v)
        (change,) = torch.autograd.grad(slope, z, v, retain_graph=True, allow_unused=True, materialize_grads=True)
        require_finite("∂²f/∂b²", change)
        return change

    return slope.detach(), curved


def functional_value_and_slope(f: Objective, z: Tensor) -> tuple[Tensor, Tensor]:
    """f(z) ``[..., *batch]`` and ∂f/∂z, shape of z, by a function transform: where a graph cannot be asked for."""

    def summed(z: Tensor) -> tuple[Tensor, Tensor]:
        value = f(z).to(z.dtype)
        return value.sum(), value

    slope, value = torch.func.grad(summed, has_aux=True)(z)
    return value, slope
