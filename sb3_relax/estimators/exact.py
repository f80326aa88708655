"""Oracles without sampling noise: b by enumeration (or Gauss-Hermite), relaxation noise by quadrature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from sb3_relax.estimators.base import Estimator, expand_to
from sb3_relax.estimators.latents import Gaussian, Latent, RelaxedLatent


def unit_interval_rule(nodes: int) -> tuple[Tensor, Tensor]:
    """Tanh-sinh (double exponential) nodes and weights on (0, 1); Takahasi and Mori 1974.

    The samplers' logarithms are singular at both ends, where Gauss-Legendre converges slowly and this rule does not.

    :return: nodes and weights in float64, the weights summing to 1
    """
    reach = 3.0  # past it the weights are below 1e-12 in relative size and the nodes crowd the ends
    t = torch.linspace(-reach, reach, nodes, dtype=torch.float64)
    inner = math.pi / 2 * torch.sinh(t)
    weights = torch.cosh(t) / torch.cosh(inner).square()
    return torch.sigmoid(2 * inner), weights / weights.sum()


def normal_rule(nodes: int) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes and weights for a standard normal, exact for polynomials of degree 2·nodes - 1."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.from_numpy(x), torch.from_numpy(w / w.sum())


def product_rule(rule: tuple[Tensor, Tensor], dim: int, chunk: int = 1 << 18) -> Iterator[tuple[Tensor, Tensor]]:
    """The tensor product of a one-dimensional rule, in chunks of ``[n, dim]`` nodes and ``[n]`` weights."""
    x, w = rule
    total = len(x) ** dim
    for start in range(0, total, chunk):
        flat = torch.arange(start, min(start + chunk, total))
        index = torch.stack([flat // len(x) ** i % len(x) for i in range(dim)], dim=-1).reshape(-1, dim)
        yield x[index], w[index].prod(-1)


def samples_with_probability(latent: Latent, nodes: int = 40) -> tuple[Tensor, Tensor]:
    """Every b of a discrete latent, or Gauss-Hermite's of a Gaussian, with their probabilities.

    :param latent: a latent without batch (θ is one event)
    :return: ``[M, *event]`` and ``[M]``
    """
    if isinstance(latent, RelaxedLatent):
        b = latent.support()
        return b, latent.at(latent.theta.detach().expand(len(b), *latent.theta.shape)).log_prob(b).exp()
    if isinstance(latent, Gaussian):
        loc, log_scale = latent.theta.detach().unbind(-1)
        x, w = zip(*product_rule(normal_rule(nodes), loc.numel()), strict=True)
        return loc + log_scale.exp() * torch.cat(x).to(loc.dtype), torch.cat(w).to(loc.dtype)
    raise TypeError(f"no enumeration or quadrature is known for {type(latent).__name__}")


def exact_gradient(latent: Latent, f: Callable[[Tensor], Tensor], nodes: int = 40) -> Tensor:
    """∂θ E[f(b)] = Σ_b p(b|θ) f(b) ∂θ log p(b|θ), shape of ``theta``.

    :param latent: a latent without batch, float64 for full accuracy
    :param f: ``[M, *event]`` → ``[M]``
    :param nodes: Gauss-Hermite nodes a dimension, for a Gaussian
    """
    b, probability = samples_with_probability(latent, nodes)
    wide = latent.at(latent.theta.detach().expand(len(b), *latent.theta.shape))
    return (expand_to(probability * f(b).detach(), wide) * wide.score(b)).sum(0)


def expected_gradient(estimator: Estimator, latent: Latent, f: Callable[[Tensor], Tensor], nodes: int = 40) -> Tensor:
    """E[ĝ] of an estimator, shape of ``theta``: b enumerated, all relaxation noise integrated by tanh-sinh.

    Independent draws of z and z̃ enter ĝ in separate terms, so both may walk the same nodes: the sum's expectation needs
    their marginals alone, and the grid keeps ``event`` dimensions instead of twice as many.

    :param estimator: with one relaxed draw
    :param latent: a latent without batch, float64 for full accuracy
    :param f: ``[M, *event]`` → ``[M]``
    :param nodes: nodes a dimension
    """
    theta = latent.theta.detach()
    b, probability = samples_with_probability(latent, nodes)
    value = f(b).detach()
    total = torch.zeros_like(theta)
    needs_noise = estimator.noise_shape(latent) is not None
    if needs_noise:
        grid = list(product_rule(unit_interval_rule(nodes), theta.numel()))
    else:
        grid = [(theta.new_zeros(1, theta.numel()), theta.new_ones(1))]
    for (row, p, v), (node, weight) in itertools.product(zip(b, probability, value, strict=True), grid):
        n = len(node)
        wide = latent.at(theta.expand(n, *theta.shape))
        noise = None
        if needs_noise:
            shape = estimator.noise_shape(wide)
            assert shape is not None
            noise = node.to(theta.dtype).reshape(n, *theta.shape).expand(shape)
        estimate = estimator.finish(wide, row.expand(n, *row.shape), v.expand(n), noise)
        total += p * (expand_to(weight.to(theta.dtype), wide) * estimate.grad).sum(0)
    return total
