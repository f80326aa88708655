"""A step of Adam or RMSprop, without what torch does around its arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th
from torch.optim import optimizer as every_optimizer

#: of a group of weights: those that have a gradient, and these gradients; and what the optimizer keeps of each weight
Arithmetic = Callable[[dict[str, Any], list[th.Tensor], list[th.Tensor], list[dict[str, th.Tensor]]], None]

#: to count steps by, which are kept on the CPU
ONE = th.ones((), device="cpu")


def take_step(optimizer: th.optim.Optimizer) -> None:
    """``optimizer.step()``, to the last bit.

    Of small networks the arithmetic takes less time than what torch does around it: it looks for hooks, names the step
    for a profiler, and sorts weights by device and type. RMSprop as A2C makes it and a fused Adam are stepped without.
    Every other optimizer, one that somebody listens to, and one that has not made its first step yet, is called.

    :param optimizer: whose weights have their gradients
    """
    known = KINDS.get(type(optimizer))
    if known is None or _has_listeners(optimizer):
        optimizer.step()
        return
    steps = []
    for group in optimizer.param_groups:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:  # of a part that takes no step this time
            continue
        gradients = [weight.grad for weight in weights]
        states = [optimizer.state.get(weight, {}) for weight in weights]
        as_known = (
            all(group.get(name) == value for name, value in known.settings.items()) and type(group["lr"]) is float
        )
        if not (as_known and all(states) and _are_alike(weights) and not any(g.is_sparse for g in gradients)):
            optimizer.step()
            return
        steps.append((group, weights, gradients, states))
    with th.no_grad():
        for step in steps:
            known.arithmetic(*step)


def _rmsprop(
    group: dict[str, Any], weights: list[th.Tensor], gradients: list[th.Tensor], states: list[dict[str, th.Tensor]]
) -> None:
    """v ← α v + (1 - α) g² and θ ← θ - lr g / (√v + ε)."""
    _count([state["step"] for state in states])
    squares = [state["square_avg"] for state in states]
    th._foreach_mul_(squares, group["alpha"])
    th._foreach_addcmul_(squares, gradients, gradients, value=1 - group["alpha"])
    roots = th._foreach_sqrt(squares)
    th._foreach_add_(roots, group["eps"])
    th._foreach_addcdiv_(weights, gradients, roots, value=-group["lr"])


def _adam(
    group: dict[str, Any], weights: list[th.Tensor], gradients: list[th.Tensor], states: list[dict[str, th.Tensor]]
) -> None:
    """Torch's own kernel."""
    numbers = [state["step"] for state in states]
    _count(numbers)
    th._fused_adam_(
        weights,
        gradients,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        numbers,
        amsgrad=False,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
        grad_scale=None,
        found_inf=None,
    )


def _count(numbers: list[th.Tensor]) -> None:
    """One step more. On the CPU torch would make a tensor of the 1 for each number."""
    if numbers[0].is_cpu:
        th._foreach_add_(numbers, ONE, alpha=1.0)
    else:
        th._foreach_add_(numbers, 1)


class Kind(NamedTuple):
    """An optimizer whose arithmetic is known."""

    arithmetic: Arithmetic
    settings: dict[str, Any]  #: with which it is this one


KINDS: dict[type[th.optim.Optimizer], Kind] = {
    th.optim.RMSprop: Kind(
        _rmsprop,
        dict(
            foreach=True,
            momentum=0,
            centered=False,
            weight_decay=0,
            maximize=False,
            capturable=False,
            differentiable=False,
        ),
    ),
    th.optim.Adam: Kind(
        _adam, dict(fused=True, amsgrad=False, capturable=False, differentiable=False, decoupled_weight_decay=False)
    ),
}


def _has_listeners(optimizer: th.optim.Optimizer) -> bool:
    """Whether a step is more than arithmetic: there are hooks, or somebody has put another ``step`` in its place."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or every_optimizer._global_optimizer_pre_hooks
        or every_optimizer._global_optimizer_post_hooks
        or "step" in vars(optimizer)
    )


def _are_alike(weights: list[th.Tensor]) -> bool:
    """Whether one kernel can step all of them."""
    kinds = {(weight.dtype, weight.device) for weight in weights}
    return len(kinds) == 1 and weights[0].is_floating_point()
