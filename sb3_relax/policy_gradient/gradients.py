"""What an optimizer steps, without walking modules for it."""

from __future__ import annotations

import torch as th


def parameters_of(optimizer: th.optim.Optimizer) -> list[th.nn.Parameter]:
    """What an optimizer steps: quicker than walking the module for it, several times an update."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def clear_gradients(optimizer: th.optim.Optimizer) -> None:
    """``zero_grad()`` without its profiler hooks, which take longer than the work."""
    for parameter in parameters_of(optimizer):
        parameter.grad = None
