"""What an optimizer steps, without walking modules for it."""

from __future__ import annotations

from collections.abc import Iterable

import torch as th

from sb3_relax.estimators.memory_layout import laid_out_as


def parameters_of(optimizer: th.optim.Optimizer) -> list[th.nn.Parameter]:
    """What an optimizer steps: quicker than walking the module for it, several times an update."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def give_gradients(parameters: Iterable[th.Tensor], gradients: Iterable[th.Tensor | None]) -> None:
    """Each parameter its gradient, as an optimizer of any kind can read it."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else laid_out_as(parameter, gradient)


def clear_gradients(optimizer: th.optim.Optimizer) -> None:
    """``zero_grad()`` without its profiler hooks, which take longer than the work."""
    for parameter in parameters_of(optimizer):
        parameter.grad = None
