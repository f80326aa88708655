"""Coupled samples of one-hot variables, by way of bits (Dong, Mnih and Tucker 2021)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sb3_relax.estimators.antithetic_bits import antithetic_bits, inverse_correlation, pattern_probability
from sb3_relax.estimators.base import TwoPhaseEstimator
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import GumbelOneHot, Latent, RelaxedLatent
from sb3_relax.estimators.several_samples import OfSeveralSamples


class CoupledCategorical(OfSeveralSamples, TwoPhaseEstimator):
    """K coupled samples of one-hots: a class is the first of C - 1 bits that is one, and the bits are :class:`ARMS`'.

    The classes of a variable are put in order of their probability, the likeliest first (sticks are broken off). Bit i
    has p_i = p(class i | none of those before it). Of every bit, with r_k whether sample k gets as far as to it::

        ĝ_i = 1/(K(K-1)) Σ_k r_k (b_k - p_i) Σ_{j≠k} [f(b_k) - f(b_j)] c_kj,   c_kj = 1/(1 - ρ_i) if r_j, else 1

    A bit that a sample does not get to plays no part in it: what ARMS would hear of it is noise, averaged out here. The
    logits' gradient follows by the chain rule. With K = 2 it is the DisARM-SB of arXiv:2106.08056; more samples by
    ARMS's copula are new here. For samples that are never alike, see :class:`UnorderedSet`.

    When to use it: K evaluations of a black box, one-hot variables, nothing to train. C² numbers are needed for every
    variable.

    :param samples: K, at least 2
    :raises ValueError: for fewer

    Example::

        estimate = CoupledCategorical(samples=3)(GumbelOneHot(logits), f)  # f: [3, *batch, D, C] → [3, *batch]
    """

    latents = (GumbelOneHot,)

    def draw(self, latent: Latent, generator: torch.Generator | None = None) -> Tensor:
        sticks = _sticks(latent)
        bits = antithetic_bits(sticks.p, self.samples, generator)
        # the last class is taken where no bit is one
        place = F.pad(bits, (0, 1), value=1.0).argmax(-1, keepdim=True)
        index = sticks.order.expand(*place.shape[:-1], -1).gather(-1, place).squeeze(-1)
        return F.one_hot(index, sticks.order.shape[-1]).to(sticks.p.dtype)

    def probability_of_draws(self, latent: Latent, b: Tensor) -> Tensor:
        sticks = _sticks(latent)
        bits, reached = sticks.bits_of(b)
        return pattern_probability(sticks.p, bits.sum(0), reached.sum(0), self.samples).prod(-1).prod(-1)

    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        sticks = _sticks(latent)
        bits, reached = sticks.bits_of(b)  # [K, *batch, D, C-1]
        f = expand_to(value.detach(), latent)
        alone = self.samples * f - f.sum(0)  # Σ_{j≠k} f_k - f_j
        together = f * reached.sum(0) - (f * reached).sum(0)  # of those j that get to the bit
        heard = alone + (inverse_correlation(sticks.p, self.samples) - 1) * together
        of_bits = (reached * (bits - sticks.p) * heard).sum(0) / (self.samples * (self.samples - 1))
        return Estimate(latent, value.mean(0), sticks.pull_back(of_bits))


class _Sticks(NamedTuple):
    """The classes of every variable in order, and the bits that choose among them."""

    order: Tensor  #: numbers of the classes, the likeliest first, ``[*batch, D, C]``
    log_p: Tensor  #: in that order
    log_after: Tensor  #: log of what the classes after a bit's own have together, ``[*batch, D, C-1]``
    p: Tensor  #: of every bit

    def bits_of(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """The bits that make one-hots, and whether they are got to: ``[K, *batch, D, C-1]``; 0 beyond."""
        bits = b.gather(-1, self.order.expand_as(b))[..., :-1]
        return bits, 1 - (bits.cumsum(-1) - bits)

    def pull_back(self, of_bits: Tensor) -> Tensor:
        """Gradients at the bits' logits → at those of the classes, which move a bit's own, and those after it."""
        classes = self.log_p.shape[-1]
        after = torch.ones(classes, classes - 1, dtype=torch.bool, device=of_bits.device).tril(-1)
        share = (self.log_p.unsqueeze(-1) - self.log_after.unsqueeze(-2)).masked_fill(~after, -torch.inf).exp()
        ordered = F.pad(of_bits, (0, 1)) - (share @ of_bits.unsqueeze(-1)).squeeze(-1)
        return torch.zeros_like(ordered).scatter(-1, self.order.expand_as(ordered), ordered)


@torch.no_grad()
def _sticks(latent: Latent) -> _Sticks:
    assert isinstance(latent, RelaxedLatent)
    log_p, order = latent.natural().sort(dim=-1, descending=True)
    log_after = log_p.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]
    return _Sticks(order, log_p, log_after, (log_p[..., :-1] - log_after).sigmoid())
