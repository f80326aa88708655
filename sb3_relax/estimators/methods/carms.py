"""CARMS: several one-hot samples that exclude each other, and what that costs divided out (Dimitriev and Zhou 2021)."""

from __future__ import annotations

from itertools import combinations, product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sb3_relax.estimators.antithetic_bits import antithetic_uniforms
from sb3_relax.estimators.base import TwoPhaseEstimator
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import GumbelOneHot, Latent, RelaxedLatent
from sb3_relax.estimators.several_samples import OfSeveralSamples

#: probability of a pair below which rounding may have made it: no such pair is ever drawn
LEAST = 1e-15
#: classes, whose C² pairs of ends are as many as torch.multinomial takes
MOST = 4096


class CARMS(OfSeveralSamples, TwoPhaseEstimator):
    """ĝ = 1/(K(K-1)) Σ_{k<j} [f(b_k) - f(b_j)] (b_k - b_j) p(b_k) p(b_j) / P(b_k, b_j), variable by variable.

    The K samples of a variable come from uniforms of :class:`ARMS`'s Dirichlet copula, by the inverse of the classes'
    distribution function. P(k, l) is the probability that two of them are of classes k and l. Independent samples have
    P(k, l) = p(k) p(l), and ĝ is :class:`RLOO`'s. Of two classes it is :class:`ARMS`'s. arXiv:2110.14002.

    Along one order of the classes, some pairs could not be drawn at all, and ĝ would miss them. So the order is drawn
    as well, for every variable, with two of the classes at its ends and a weight of the product of their
    probabilities: what the authors' code calls weighted. P is the mean over all orders.

    When to use it: to compare with. :class:`CoupledCategorical` averages over more of its noise, and is the one to
    take. With two samples of many classes a pair that hardly ever comes has a large weight, and ĝ can have more
    variance than RLOO's. C² orders are looked at for every pair of samples of every variable.

    :param samples: K, at least 2
    :raises ValueError: for fewer, and, when called, for more than 4,096 classes

    Example::

        estimate = CARMS(samples=4)(GumbelOneHot(logits), f)  # f: [4, *batch, D, C] → [4, *batch]
    """

    latents = (GumbelOneHot,)

    def draw(self, latent: Latent, generator: torch.Generator | None = None) -> Tensor:
        orders = _orders(latent)
        classes = orders.p.shape[-1]
        flat = orders.weight.flatten(-2).reshape(-1, classes * classes)
        which = torch.multinomial(flat, 1, generator=generator).reshape(orders.p.shape[:-1]).unsqueeze(-1)
        first, last = which // classes, which % classes
        place = (torch.arange(classes, device=which.device) - first) % classes
        along = torch.where(place == (last - first) % classes, classes, place).argsort(-1)
        ends = orders.p.gather(-1, along).cumsum(-1)[..., :-1]
        u = antithetic_uniforms(orders.p[..., :1], self.samples, generator)
        index = (ends <= u).sum(-1, keepdim=True)
        ranked = along.expand(*index.shape[:-1], -1).gather(-1, index)
        own = orders.rank.expand(*index.shape[:-1], -1).gather(-1, ranked).squeeze(-1)
        return F.one_hot(own, classes).to(latent.computing_dtype)

    def probability_of_draws(self, latent: Latent, b: Tensor) -> Tensor:
        orders = _orders(latent)
        ends = orders.ends(b, self.samples)
        total = torch.zeros_like(orders.weight)
        for sides in product((0, 1), repeat=self.samples):  # the upper end of each sample's interval, or the lower
            share = torch.stack([ends[side][k] for k, side in enumerate(sides)]).sum(0)
            total = total + (-1) ** sides.count(0) * (share - self.samples + 1).clamp(min=0) ** (self.samples - 1)
        return (orders.weight * total.clamp(min=0)).sum((-2, -1)).prod(-1).to(b)

    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        f = expand_to(value.detach(), latent)
        orders = _orders(latent)
        lower, upper = orders.ends(b, self.samples)
        chosen = (orders.of_classes(b) * orders.p).sum(-1)
        grad = torch.zeros_like(b[0])
        for k, j in combinations(range(self.samples), 2):
            # P(u_k < x, u_j < y) at the four corners
            corners = [
                (x + y - 1).clamp(min=0) ** (self.samples - 1)
                for x, y in ((upper[k], upper[j]), (lower[k], upper[j]), (upper[k], lower[j]), (lower[k], lower[j]))
            ]
            pair = (orders.weight * (corners[0] - corners[1] - corners[2] + corners[3]).clamp(min=0)).sum((-2, -1))
            ratio = (chosen[k] * chosen[j] / pair.clamp(min=LEAST)).unsqueeze(-1).to(b)
            grad = grad + (f[k] - f[j]) * (b[k] - b[j]) * ratio
        return Estimate(latent, value.mean(0), grad / (self.samples * (self.samples - 1)))


class _Orders(NamedTuple):
    """The classes of every variable, the rarest first, and the weight of each pair of ends: in float64."""

    rank: Tensor  #: numbers of the classes, the rarest first, ``[*batch, D, C]``
    p: Tensor  #: in that order
    weight: Tensor  #: of the order that begins with one class and ends with another, ``[*batch, D, C, C]``

    def of_classes(self, b: Tensor) -> Tensor:
        """One-hots with their classes in order."""
        return b.double().gather(-1, self.rank.expand_as(b))

    def ends(self, b: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Where a class begins and ends along every order, to the power of 1/(K-1): ``[K, *batch, D, C, C]``."""
        b = self.of_classes(b)
        p = (b * self.p).sum(-1)[..., None, None]
        first, last = b.unsqueeze(-1) == 1, b.unsqueeze(-2) == 1
        rarer = b.flip(-1).cumsum(-1).flip(-1) - b  # 1 for the classes before b's own, the rarest first
        below = self.p.cumsum(-1) - self.p
        # round from the first class on, without the last one where that has been passed
        turned = (1 - rarer - b).unsqueeze(-1)
        passed = torch.maximum(rarer.unsqueeze(-2), turned)
        within = (b * below).sum(-1)[..., None, None] - below.unsqueeze(-1) + turned - passed * self.p.unsqueeze(-2)
        lower = torch.where(first, 0.0, torch.where(last, 1 - p, within)).clamp(0, 1)
        return lower ** (1 / (samples - 1)), (lower + p).clamp(max=1) ** (1 / (samples - 1))


@torch.no_grad()
def _orders(latent: Latent) -> _Orders:
    assert isinstance(latent, RelaxedLatent)
    if latent.theta.shape[-1] > MOST:
        raise ValueError(
            f"CARMS draws one of C² orders of the classes, and takes at most {MOST:,} classes; got "
            f"{latent.theta.shape[-1]:,}. Use CoupledCategorical, whose samples exclude each other without such orders"
        )
    log_p, rank = latent.natural().double().sort(dim=-1)
    classes = log_p.shape[-1]
    # a single class is both ends
    ahead = torch.ones(classes, classes, dtype=torch.bool, device=log_p.device).triu(min(classes - 1, 1))
    log_weight = (log_p.unsqueeze(-1) + log_p.unsqueeze(-2)).masked_fill(~ahead, -torch.inf)
    return _Orders(rank, log_p.exp(), log_weight.flatten(-2).softmax(-1).reshape(log_weight.shape))
