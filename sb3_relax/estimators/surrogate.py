"""Calling c: its value at a sample, its slope, and the backward pass of both to φ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sb3_relax.estimators.checks import read_only, require_differentiable, under_transform
from sb3_relax.estimators.latents import Latent
from sb3_relax.estimators.objective import functional_value_and_slope

#: c_φ: maps relaxed or hard samples ``[..., *batch, *event]`` to values ``[..., *batch]``.
Surrogate = Callable[[Tensor], Tensor]

#: layers whose slope, or whose value, jumps: there autograd's second derivative misses what the jump adds
KINKED = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ReLU6, nn.SELU, nn.Threshold),
    *(nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softshrink),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)

#: a cotangent of c(z) to pairs of a parameter in φ and its gradient; called without autograd
ValueVJP = Callable[[Tensor], list[tuple[Tensor, Tensor]]]

#: cotangents of c(z) and of ∂c/∂z to pairs of a parameter in φ and its gradient; called without autograd
SurrogateVJP = Callable[[Tensor, Tensor], list[tuple[Tensor, Tensor]]]


def value_and_slope(surrogate: Surrogate, z: Tensor, latent: Latent | None = None) -> tuple[Tensor, Tensor]:
    """c(z) ``[..., *batch]`` and ∂c/∂z, shape of z, both with graphs to φ alone.

    Taken from the surrogate's own ``value_and_slope`` where it has one (a closed form saves the second derivative that
    training φ needs), else from autograd.

    :raises RuntimeError: under ``torch.inference_mode()``
    :raises TypeError: for a surrogate whose parameters would never be trained
    :raises ValueError: for one whose value has no graph to z
    """
    require_differentiable("c and its slope are differentiated in φ")
    c_of = of_sample_alone(surrogate, latent)
    closed_form = _closed_form(c_of, "value_and_slope", ("forward",))
    if closed_form is not None:
        c, slope = closed_form(z)
    elif under_transform():
        c, slope = functional_value_and_slope(c_of, z)
        require_value_per_sample(c, z, latent)
        return c, slope
    else:
        z = z.detach().requires_grad_()
        c = read_only("surrogate", c_of, z)
        require_value_per_sample(c, z, latent)
        slope = slope_of(c, z)
    require_trained("surrogate", surrogate, c, z)
    return c, slope


def slope_of(c: Tensor, z: Tensor) -> Tensor:
    """∂c/∂z, with a graph.

    :param c: c(z)
    :raises ValueError: where c has no graph to z. A slope of 0 would be right for a c that does not read z, and biased,
        without a word, for one that reads z detached
    """
    slope = None
    if c.requires_grad:
        (slope,) = torch.autograd.grad(c.sum(), z, create_graph=True, allow_unused=True)
    if slope is None:
        raise ValueError(
            "the surrogate's value has no graph to its sample z: it does not read z, or reads it detached or by numpy. "
            "c must be differentiable torch code of z. What reads the context alone is a baseline: NVIL(baseline)"
        )
    return slope


def value_slope_diagonal(
    surrogate: Surrogate, sample: Callable[[Tensor], Tensor], z: Tensor, latent: Latent
) -> tuple[Tensor, Tensor, Tensor]:
    """c(sample(z)) ``[..., *batch]``, ∂c/∂z and the diagonal of ∂²c/∂z², both of z's shape: all with graphs to φ.

    One backward pass through the slope for each of z's last dimension.

    :param sample: of z, differentiable
    :raises RuntimeError: under ``torch.inference_mode()``
    :raises TypeError: for a surrogate whose parameters would never be trained
    :raises ValueError: for one whose value has no graph to z
    """
    require_differentiable("c and its slope are differentiated in z")
    of_sample, axes = of_sample_alone(surrogate, latent), range(z.shape[-1])

    def c(z: Tensor) -> Tensor:
        return read_only("surrogate", of_sample, sample(z))

    if under_transform():
        slope, pulled, *_ = torch.func.vjp(lambda z: functional_value_and_slope(c, z)[1], z)
        unit = torch.eye(len(axes), dtype=z.dtype, device=z.device)
        return c(z), slope, torch.stack([pulled(unit[i].expand_as(z))[0][..., i] for i in axes], dim=-1)
    z = z.detach().requires_grad_()
    value = c(z)
    require_value_per_sample(value, z, latent)
    require_trained("surrogate", surrogate, value, z)
    slope = slope_of(value, z)
    if not slope.requires_grad:  # c is linear, and without parameters
        return value, slope, torch.zeros_like(slope)
    rows = [
        torch.autograd.grad(slope[..., i].sum(), z, create_graph=True, allow_unused=True, materialize_grads=True)[0]
        for i in axes
    ]
    return value, slope, torch.stack([row[..., i] for i, row in enumerate(rows)], dim=-1)


def value_slope_vjp(
    surrogate: Surrogate, z: Tensor, latent: Latent | None = None
) -> tuple[Tensor, Tensor, SurrogateVJP | None]:
    """c(z) and ∂c/∂z as :func:`value_and_slope` gives them, and a backward pass to φ where the surrogate has its own.

    What that pass covers has no graph: autograd's bookkeeping costs a small network more than its arithmetic.

    :raises TypeError: for a surrogate whose parameters would never be trained
    """
    if not under_transform():
        with_vjp = _closed_form(of_sample_alone(surrogate, latent), "value_slope_vjp", ("value_and_slope", "forward"))
        if with_vjp is not None:
            c, slope, vjp = with_vjp(z)
            require_trained("surrogate", surrogate, c, z, by_hand=vjp is not None)
            return c, slope, vjp
    return *value_and_slope(surrogate, z, latent), None


def value_vjp(surrogate: Surrogate, z: Tensor, latent: Latent | None = None) -> tuple[Tensor, ValueVJP | None]:
    """c(z), attached to φ, or without a graph and with a backward pass to φ, where the surrogate has its own.

    :raises TypeError: for a surrogate whose parameters would never be trained
    """
    c_of = of_sample_alone(surrogate, latent)
    by_hand = None if under_transform() else _closed_form(c_of, "value_vjp", ("__call__", "forward"))
    c, vjp = (read_only("surrogate", c_of, z), None) if by_hand is None else by_hand(z)
    require_value_per_sample(c, z, latent)
    require_trained("surrogate", surrogate, c, z, by_hand=vjp is not None)
    return c, vjp


def of_sample_alone(surrogate: Surrogate, latent: Latent | None) -> Surrogate:
    """The surrogate as a function of z alone, at one latent: its θ and its context are held fixed.

    A surrogate that reads them in its own way has a method ``given``, of the latent, which makes such a function. Any
    other is called ``surrogate(z, context)`` where there is a context, with the context expanded to z's leading
    dimensions.
    """
    if latent is None:
        return surrogate
    if hasattr(surrogate, "given"):
        return surrogate.given(latent)
    context = latent.context
    if context is None:
        return surrogate

    def with_context(z: Tensor) -> Tensor:
        leading = z.shape[: z.dim() - latent.sample_ndim - len(latent.batch_shape)]
        # whether z was written into, whoever calls this will see
        return read_only("surrogate", lambda h: surrogate(z, h), context.expand(*leading, *context.shape))  # type: ignore[call-arg]

    return with_context


def require_value_per_sample(value: Tensor, z: Tensor, latent: Latent | None) -> None:
    """Refuse a surrogate whose values would be spread over the batch, as those of shape ``[*batch, 1]`` would.

    :raises TypeError: for what is no tensor
    :raises ValueError: for c(z) of another shape than that of z's samples
    """
    if latent is None:
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"the surrogate must return a tensor, made of z by torch; got {type(value).__name__}")
    shape = z.shape[: z.dim() - latent.sample_ndim]
    if value.shape != shape:
        raise ValueError(
            f"the surrogate must return one value per sample: for samples of shape {tuple(z.shape)} a tensor of shape "
            f"{tuple(shape)}; got {tuple(value.shape)}. A network that ends in one number needs .squeeze(-1) after it"
        )


def require_trained(what: str, function: Any, value: Tensor, of: Tensor, by_hand: bool = False) -> None:
    """Refuse a function with parameters that no backward pass would ever reach.

    :param what: the function, for the error
    :param value: what it gave
    :param of: its input
    :param by_hand: whether it has a backward pass of its own instead of a graph
    :raises TypeError: for a function that is no module, or a module that does not know its parameters, unless it says
        that they are ``trained_elsewhere``
    """
    if getattr(function, "trained_elsewhere", False):
        return
    if isinstance(function, nn.Module) and (by_hand or any(p.requires_grad for p in function.parameters())):
        return
    if by_hand or has_parameters(value, of):
        raise TypeError(
            f"the {what} has parameters that would never be trained, since they are not among its parameters(): give "
            "a torch.nn.Module that holds them (what else it reads comes by estimator(q, f, context=h)), or, where "
            f"you train them yourself, set trained_elsewhere = True on the {what}"
        )


def require_smooth(who: str, surrogate: Any) -> None:
    """Refuse a surrogate with a layer whose slope jumps, for an estimator that takes its second derivative.

    Only layers that are modules are seen, and not a call of ``torch.relu``, say.

    :param who: the estimator, for the error
    :raises TypeError: for a module that has one of :data:`KINKED`, or an ELU whose alpha is not 1
    """
    if not isinstance(surrogate, nn.Module):
        return
    for name, layer in surrogate.named_modules():
        if isinstance(layer, KINKED) or (isinstance(layer, nn.ELU) and layer.alpha != 1):
            raise TypeError(
                f"{who} takes the second derivative of c, and would be biased: the slope of {layer} jumps, which "
                f"autograd's second derivative does not know (layer {name!r} of the surrogate). Use Tanh, Softplus or "
                "SiLU in its place, or LAX, for which it is enough that c is continuous"
            )


def has_parameters(value: Tensor, of: Tensor) -> bool:
    """Whether the graph of ``value`` leads to a tensor that requires grad and is not ``of``."""
    todo, seen = [value.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf is not of:
            return True
        todo += [below for below, _ in node.next_functions]
    return False


def _closed_form(surrogate: Surrogate, name: str, overridden_by: tuple[str, ...]) -> Callable[..., Any] | None:
    """A method of the surrogate, unless a subclass has redefined c below the class that wrote it."""
    for cls in type(surrogate).__mro__:
        if name in cls.__dict__:  # torch 2.8 compiles no vars()
            return getattr(surrogate, name)
        if any(other in cls.__dict__ for other in overridden_by):
            return None
    return None
