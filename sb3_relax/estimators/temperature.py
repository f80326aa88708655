"""Temperatures τ of relaxations: which ones there are, and how a learned one stays among them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

#: Smallest and largest τ. At log τ = -50 the derivative of σ(z/τ) is NaN in float32, and a learned log τ may well drift
#: that far. Within these bounds σ_τ(z) is a step, or a constant, as well as any problem could want.
LEAST_TEMPERATURE, GREATEST_TEMPERATURE = 1e-4, 1e4
LOG_BOUNDS = math.log(LEAST_TEMPERATURE), math.log(GREATEST_TEMPERATURE)


def require_temperature(temperature: float) -> float:
    """A temperature τ.

    :raises ValueError: where it is not a positive number, or is out of bounds
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite; got {temperature}")
    if not LEAST_TEMPERATURE <= temperature <= GREATEST_TEMPERATURE:
        raise ValueError(
            f"temperature must be between {LEAST_TEMPERATURE:g} and {GREATEST_TEMPERATURE:g}; got {temperature}"
        )
    return float(temperature)


def learned_temperature(log_temperature: Tensor) -> Tensor:
    """τ = exp(log τ) of a log τ that is learned by descent, kept between its bounds.

    Beyond a bound τ stays at it, and log τ gets a gradient only where that leads back. It can overshoot by the momentum
    of its optimizer, but is never stuck.
    """
    if not torch.is_grad_enabled():  # autograd's bookkeeping would cost more than all else here
        return _within_bounds(log_temperature).exp()
    return _Bounded.apply(log_temperature).exp()


def inward(log_temperature: Tensor, gradient: Tensor) -> Tensor:
    """A gradient of log τ, and 0 where descent along it would lead further beyond a bound."""
    beyond = log_temperature - _within_bounds(log_temperature)
    return gradient.masked_fill(beyond * gradient < 0, 0)


def _within_bounds(log_temperature: Tensor) -> Tensor:
    return log_temperature.clamp(*LOG_BOUNDS)


class _Bounded(torch.autograd.Function):
    """log τ between its bounds."""

    generate_vmap_rule = True

    @staticmethod
    def forward(log_temperature: Tensor) -> Tensor:
        return _within_bounds(log_temperature)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (log_temperature,) = ctx.saved_tensors
        return inward(log_temperature, gradient)
