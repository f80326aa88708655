"""K bits that exclude each other as far as their probability allows (Dimitriev and Zhou 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sb3_relax.estimators.latents import open_unit


@torch.no_grad()
def antithetic_bits(p: Tensor, samples: int, generator: torch.Generator | None = None) -> Tensor:
    """K bits of probability p, of which few have the rarer value at once: ``[K, *p.shape]``.

    The rarer value of a bit is drawn where its :func:`antithetic_uniforms` are less than min(p, 1-p).

    :param p: in [0, 1], in single precision at least
    :param samples: K, at least 2
    """
    rare = antithetic_uniforms(p, samples, generator) < rarer(p)
    return (rare == (p <= 0.5)).to(p.dtype)


def antithetic_uniforms(like: Tensor, samples: int, generator: torch.Generator | None = None) -> Tensor:
    """K uniforms of which few are small at once: ``[K, *like.shape]``.

    They are u_k = (1 - d_k)^(K-1) of a d ~ Dirichlet(1, …, 1): one large share leaves less to the others. So the
    probability that all are below some x_k is max(0, Σ_k x_k^(1/(K-1)) - (K-1))^(K-1), and that of fewer has x_k = 1.
    """
    u = torch.rand((samples, *like.shape), dtype=like.dtype, device=like.device, generator=generator)
    size = -open_unit(u).log()
    total = size.sum(0)
    return ((total - size) / total) ** (samples - 1)


def rarer(p: Tensor) -> Tensor:
    """The probability of a bit's rarer value."""
    return torch.minimum(p, 1 - p)


def inverse_correlation(p: Tensor, samples: int) -> Tensor:
    """1 / (1 - ρ), shape of p, ρ < 0 the correlation of two of K :func:`antithetic_bits`."""
    m = rarer(p).clamp(min=torch.finfo(p.dtype).tiny)
    both = (2 * m ** (1 / (samples - 1)) - 1).clamp(min=0) ** (samples - 1)
    # 1 - ρ = (m - both) / (m (1 - m))
    return (1 - m) / (1 - both / m)


def pattern_probability(p: Tensor, ones: Tensor, seen: Tensor, samples: int) -> Tensor:
    """The probability of certain values of some of K :func:`antithetic_bits`, the others being anything.

    :param p: of a one
    :param ones: how many of the values are ones, broadcastable to p
    :param seen: how many values there are, up to K
    """
    rare = torch.where(p <= 0.5, ones, seen - ones)
    share = 1 - rarer(p) ** (1 / (samples - 1))  # of d, above which the rarer value is drawn
    total = torch.zeros_like(p * ones)
    for more in range(samples + 1):
        # inclusion and exclusion: `rare` certain shares above, and no other one
        choices = torch.tensor([math.comb(n, more) for n in range(samples + 1)], dtype=p.dtype, device=p.device)
        above = (1 - (rare + more) * share).clamp(min=0) ** (samples - 1)
        total = total + (-1) ** more * choices[(seen - rare).long()] * above
    return total.clamp(min=0)
