"""The problems of bench_estimators.py: a latent and an f, by instance."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sb3_relax.estimators import GumbelOneHot, LogisticBernoulli
from sb3_relax.estimators.latents import Latent


class Problem(NamedTuple):
    latent: Latent  #: without batch
    f: Callable[[Tensor], Tensor]
    parameters: tuple[Tensor, ...] = ()  #: f's own, to which the direct term goes


def toy(instance: int) -> Problem:
    """(b - .499)² at θ = 0, the paper's; instances start at other θ."""
    theta = torch.full((1,), 0.5 * instance)
    return Problem(LogisticBernoulli(theta), lambda b: (b - 0.499).square().sum(-1))


def quadratic(instance: int) -> Problem:
    """200 bits: a linear part and one square, a·b + 2/D (c·b)²."""
    generator = torch.Generator().manual_seed(instance)
    theta, a, c = (torch.randn(200, generator=generator) for _ in range(3))
    return Problem(LogisticBernoulli(theta), lambda b: b @ a + (b @ c).square() / 100)


def decoder(instance: int) -> Problem:
    """50 bits through a random tanh decoder, squared error to a target: ‖x - tanh(W b + w)‖²."""
    generator = torch.Generator().manual_seed(instance)
    theta = torch.randn(50, generator=generator)
    first, second = (
        torch.randn(100, 50, generator=generator) / 50**0.5 * 2,
        torch.randn(100, 100, generator=generator) / 10,
    )
    offset, target = torch.randn(100, generator=generator), torch.randn(100, generator=generator).tanh()

    def f(b: Tensor) -> Tensor:
        return (target - torch.tanh(torch.tanh((2 * b - 1) @ first.T + offset) @ second.T)).square().sum(-1)

    return Problem(LogisticBernoulli(theta), f)


def categorical(instance: int) -> Problem:
    """Ten variables of ten classes: a linear part and one square."""
    generator = torch.Generator().manual_seed(instance)
    theta, w, v = (torch.randn(10, 10, generator=generator) for _ in range(3))
    return Problem(GumbelOneHot(theta), lambda b: (b * w).sum((-2, -1)) + (b * v).sum((-2, -1)).square() / 10)


def vae(instance: int) -> Problem:
    """A VAE's step without its encoder: 200 bits through a linear decoder of 784 pixels, whose weights are learned."""
    generator = torch.Generator().manual_seed(instance)
    theta = torch.randn(200, generator=generator)
    weight, pixels = torch.randn(784, 200, generator=generator) / 20, torch.rand(784, generator=generator).round()
    weight.requires_grad_()

    def f(b: Tensor) -> Tensor:
        logits = torch.nn.functional.linear(2 * b - 1, weight)
        return (pixels * logits - torch.nn.functional.softplus(logits)).sum(-1)

    return Problem(LogisticBernoulli(theta), f, (weight,))


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "toy": toy,
    "quadratic": quadratic,
    "decoder": decoder,
    "categorical": categorical,
}

#: of the time part alone
TIMED_PROBLEMS: dict[str, Callable[[int], Problem]] = {**PROBLEMS, "vae": vae}
