"""Quadrature rules: the noise of an estimator integrated instead of sampled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


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


def product_rule(
    rule: tuple[Tensor, Tensor] | Sequence[tuple[Tensor, Tensor]], dim: int, chunk: int = 1 << 18
) -> Iterator[tuple[Tensor, Tensor]]:
    """The tensor product of one-dimensional rules, in chunks of ``[n, dim]`` nodes and ``[n]`` weights.

    :param rule: one rule for every dimension, or one for each (of equal sizes)
    """
    rules = [rule] * dim if isinstance(rule, tuple) else list(rule)
    if dim == 0:
        yield torch.zeros(1, 0, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        return
    x, w = (torch.stack(parts) for parts in zip(*rules, strict=True))  # [dim, n]
    size = x.shape[1]
    dimension = torch.arange(dim)
    for start in range(0, size**dim, chunk):
        flat = torch.arange(start, min(start + chunk, size**dim))
        index = torch.stack([flat // size**i % size for i in range(dim)], dim=-1)
        yield x[dimension, index], w[dimension, index].prod(-1)


def repeated_rule(
    rule: Iterable[tuple[Tensor, Tensor]], times: int, chunk: int = 1 << 18
) -> Iterator[tuple[Tensor, Tensor]]:
    """The product of ``times`` copies of one rule, ``[n, dim]`` nodes → ``[n^times, times·dim]``, in chunks."""
    x, w = (torch.cat(parts) for parts in zip(*rule, strict=True))
    for index in torch.cartesian_prod(*[torch.arange(len(x))] * times).split(chunk):
        yield x[index].flatten(1), w[index].prod(1)


def piecewise_rule(breaks: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre on (0, 1), piece by piece between ``breaks``: exact for polynomials of degree 2·nodes - 1 in each.

    :param breaks: points inside (0, 1)
    """
    x, w = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(nodes))
    ends = torch.cat([torch.zeros(1), breaks.detach().to(x).sort().values.cpu(), torch.ones(1)]).double()
    width = (ends[1:] - ends[:-1]).unsqueeze(-1)
    return (ends[:-1].unsqueeze(-1) + width * (x + 1) / 2).flatten(), (width * w / 2).flatten()
