"""k of D things, each with a logit of its own."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sb3_relax.estimators.checks import require_tensors
from sb3_relax.estimators.kept import kept_of_theta
from sb3_relax.estimators.latents.base import Latent, check_support

#: log of a number of ways that is 0. Finite, since the derivative of logaddexp at two infinities is none
NO_WAY = -1e30


class KSubset(Latent):
    """Bits of which exactly k are one: p(b|θ) = exp(θ·b)/Z where Σ b = k, and 0 elsewhere.

    D independent bits of logits θ, given that k of them are one. Z, the marginals μ = E[b] and samples are exact, by
    dynamic programming over the D things: D steps of k + 1 numbers (arXiv:2210.01941), in float64 for θ of any type.
    For feature selection, sparse attention, or a budget of k.

    :param logits: θ, ``[*batch, D]``; a number added to all of them changes nothing
    :param k: from 1 to D
    :raises ValueError: for another k

    Example::

        q = KSubset(logits, k=10)
        SIMPLE()(q, f).backward()  # or RLOO()(q, f), which is unbiased and takes a black box
    """

    event_ndim = 1
    sample_ndim = 1

    def __init__(self, logits: Tensor, k: int):
        require_tensors(logits=logits)
        if logits.dim() < 1 or not (isinstance(k, int) and 1 <= k <= logits.shape[-1]):
            raise ValueError(
                f"logits must be [*batch, D], k a whole number from 1 to D; got shape {tuple(logits.shape)} and {k!r}"
            )
        self.theta = logits
        self.k = k

    def at(self, theta: Tensor) -> KSubset:
        return KSubset(theta, self.k)

    @property
    def variables(self) -> int:
        return 1

    def _apart(self) -> KSubset:
        raise TypeError("the bits of a KSubset depend on each other: they are one variable")

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            theta = centred(self.theta, self.k)
            ways = prefix_ways(theta, self.k)
            u = torch.rand(theta.shape, dtype=self.computing_dtype, device=theta.device, generator=generator)
            left = torch.full((*theta.shape[:-1], 1), self.k, device=theta.device)
            bits: list[Tensor] = []
            for d in reversed(range(theta.shape[-1])):  # thing d is in with the share of the ways that have it
                with_it = ways[d].gather(-1, (left - 1).clamp(min=0)) + theta[..., d : d + 1]
                taken = (u[..., d : d + 1].log() < with_it - ways[d + 1].gather(-1, left)) & (left > 0)
                left = left - taken.long()
                bits.append(taken)
            return torch.cat(bits[::-1], dim=-1).to(self.computing_dtype)

    def log_prob(self, b: Tensor) -> Tensor:
        theta = centred(self.theta, self.k)
        possible = b.sum(-1) == self.k
        log_prob = (b * theta).sum(-1) - prefix_ways(theta, self.k)[-1][..., self.k]
        return torch.where(possible, log_prob, -torch.inf).to(self.computing_dtype)

    @kept_of_theta
    def marginals(self) -> Tensor:
        """p(bit = 1), shape of θ, detached."""
        return marginals_of(self.wide_theta.detach(), self.k)

    @property
    def probs(self) -> Tensor:
        """The marginals, differentiable in θ."""
        return marginals_of(self.wide_theta, self.k)

    def mean(self) -> Tensor:
        return self.marginals

    def mode(self) -> Tensor:
        top = self.wide_theta.detach().topk(self.k, dim=-1).indices
        return F.one_hot(top, self.theta.shape[-1]).sum(-2).to(self.computing_dtype)

    def score(self, b: Tensor) -> Tensor:
        return b - self.marginals

    def mean_gradient(self, slope: Tensor) -> Tensor:
        """``slope`` · ∂μ/∂θ, shape of θ: the covariance of b times ``slope``."""
        theta = self.wide_theta.detach()
        _, pulled, *_ = torch.func.vjp(lambda theta: marginals_of(theta, self.k), theta)
        return pulled(slope)[0]

    def entropy(self) -> Tensor:
        theta = centred(self.theta, self.k)
        entropy = prefix_ways(theta, self.k)[-1][..., self.k] - (marginals_of(theta, self.k) * theta).sum(-1)
        return entropy.to(self.computing_dtype)

    def kl(self, other: KSubset) -> Tensor:
        theta, others = centred(self.theta, self.k), centred(other.theta, self.k)
        log_z, log_z_other = (prefix_ways(x, self.k)[-1][..., self.k] for x in (theta, others))
        kl = (marginals_of(theta, self.k) * (theta - others)).sum(-1) - log_z + log_z_other
        return kl.to(self.computing_dtype)

    def support(self) -> Tensor:
        """Every value of b: ``[M, D]``.

        :raises ValueError: where there are more than ``MAX_SUPPORT``
        """
        size = self.theta.shape[-1]
        check_support(math.comb(size, self.k))
        subsets = torch.tensor(list(itertools.combinations(range(size), self.k)), device=self.theta.device)
        return F.one_hot(subsets, size).sum(-2).to(self.computing_dtype)


def centred(theta: Tensor, k: int) -> Tensor:
    """θ in float64, less the k-th largest of its row: the same distribution.

    Sums of many θ would lose digits of the marginals in float32, and so would an offset that all θ of a row share.
    """
    theta = theta.double()
    return theta - theta.detach().topk(k, dim=-1).values[..., -1:]


def prefix_ways(theta: Tensor, k: int) -> list[Tensor]:
    """log Σ exp(θ·b) over the b of the first d things that have j ones, for d = 0 … D: ``[*batch, k + 1]`` each."""
    ways = [F.pad(theta.new_zeros(*theta.shape[:-1], 1), (0, k), value=NO_WAY)]
    for column in theta.unbind(-1):
        before = ways[-1]
        ways.append(torch.logaddexp(before, F.pad(before[..., :-1] + column.unsqueeze(-1), (1, 0), value=NO_WAY)))
    return ways


def marginals_of(theta: Tensor, k: int) -> Tensor:
    """p(bit = 1), in θ's type: the ways of the things before and after it that have k - 1 ones together."""
    dtype, theta = theta.dtype, centred(theta, k)
    before, after = prefix_ways(theta, k), prefix_ways(theta.flip(-1), k)[::-1]
    log_z = before[-1][..., k]
    marginals = [
        (before[d][..., :k] + after[d + 1][..., :k].flip(-1)).logsumexp(-1) + column - log_z
        for d, column in enumerate(theta.unbind(-1))
    ]
    return torch.stack(marginals, dim=-1).exp().clamp(max=1).to(dtype)
