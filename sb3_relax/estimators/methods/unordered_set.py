"""The unordered set estimator: samples without replacement (Kool, van Hoof and Welling 2020)."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor

from sb3_relax.estimators.base import TwoPhaseEstimator
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli
from sb3_relax.estimators.several_samples import OfSeveralSamples
from sb3_relax.estimators.without_replacement import (
    as_classes,
    cannot_be_drawn,
    earlier_pairs,
    log_probability_left,
    sample_without_replacement,
)

#: most samples of one estimate: every subset of them is looked at
MOST_SAMPLES = 12


class UnorderedSet(OfSeveralSamples, TwoPhaseEstimator):
    """ĝ = Σ_{s∈S} w_s [f(s) - B_s] ∂θ log p(s|θ) of a set S of K values drawn without replacement (arXiv:2002.06043).

    ::

        w_s = p(s) P_s(S∖s) / P(S),     B_s = p(s) f(s) + Σ_{s'≠s} p(s') P_ss'(S∖{s, s'}) / P_s(S∖s) f(s')

    P(S) is the probability to draw S in any order, P_s and P_ss' those of the rest where s, or s and s', cannot be
    drawn. w_s is the probability that s came first, given S: ĝ is REINFORCE's averaged over every order, with a
    leave-one-out baseline of the other samples. No value is drawn twice, so that no call of f is wasted on one that is
    known: where K is the number of values, ĝ is the exact gradient.

    When to use it: K evaluations of a black box that is expensive, and a p that is peaked. When not: many bits, whose
    values hardly ever repeat, where it is RLOO at more arithmetic: sampling takes a step for each of D variables. Its
    own arithmetic grows as 2^K. ``value`` is Σ w_s f(s), whose mean is E[f(b)].

    :param samples: K, from 2 to 12. Where b has fewer values, the last draws repeat the first one, and weigh nothing
    :raises ValueError: for another number

    Example::

        estimate = UnorderedSet(samples=4)(GumbelOneHot(logits), f)  # f: [4, *batch, D, K] → [4, *batch]
    """

    latents = (LogisticBernoulli, GumbelOneHot)

    def __init__(self, samples: int = 2):
        super().__init__(samples)
        if samples > MOST_SAMPLES:
            raise ValueError(f"samples must be at most {MOST_SAMPLES}, since every subset is looked at; got {samples}")

    def draw(self, latent: Latent, generator: torch.Generator | None = None) -> Tensor:
        return sample_without_replacement(latent, self.samples, generator)

    def probability_of_draws(self, latent: Latent, b: Tensor) -> Tensor:
        p, new = latent.log_prob(b).exp(), ~_repeated(latent, b)
        before = torch.cat([torch.zeros_like(p[:1]), p.cumsum(0)[:-1]])
        return torch.where(new, p / (1 - before).clamp(min=torch.finfo(p.dtype).tiny), 0.0).prod(0)

    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        with torch.no_grad():
            weight, baseline = self._weights(latent, b)
            centred = value.detach() - (baseline * value.detach()).sum(1)
            grad = (expand_to(weight * centred, latent) * latent.score(b)).sum(0)
        return Estimate(latent, (weight * value).sum(0), grad)

    def _weights(self, latent: Latent, b: Tensor) -> tuple[Tensor, Tensor]:
        """w, ``[K, *batch]``, and the shares of f(s') in B_s, ``[K (s), K (s'), *batch]``."""
        log_p = latent.log_prob(b).masked_fill(_repeated(latent, b), -torch.inf)
        none, one, two = _log_orders(log_p, log_probability_left(latent, b))
        weight = (log_p + one - none).exp()
        own = torch.eye(self.samples, dtype=torch.bool, device=b.device).reshape(
            self.samples, self.samples, *(1,) * (log_p.dim() - 1)
        )
        others = (log_p.unsqueeze(0) + two - one.unsqueeze(1)).exp()
        return weight, torch.where(own, log_p.exp().unsqueeze(0), others)


def _repeated(latent: Latent, b: Tensor) -> Tensor:
    """Which of K samples are equal to an earlier one, or cannot be drawn at all: ``[K, *batch]``."""
    classes = as_classes(latent, b)
    same = (classes.unsqueeze(0) * classes.unsqueeze(1)).sum(-1).amin(-1) > 0  # [K, K, *batch]
    return earlier_pairs(same) | cannot_be_drawn(latent, b)


def _log_orders(log_p: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log of the probability to draw, in any order, the rest of S where a part of it cannot be drawn any more.

    With W(T) = Σ_{s∈S∖T} p(s) / (1 - p(T)) W(T ∪ s) and W(S) = 1, which takes every subset T of S once.

    :param log_p: log p(s), ``[K, *batch]``; -inf for one that is not of S
    :param log_rest: log (1 - p(S)), ``[*batch]``
    :return: where T is empty ``[*batch]``, one sample ``[K, *batch]``, and two ``[K, K, *batch]``
    """
    samples = len(log_p)
    levels = [torch.zeros_like(log_p[:1])]  # of T = S first, and of one sample less in every next
    for members, following in reversed(_subsets(samples)):
        members = members.to(log_p.device).reshape(*members.shape, *(1,) * log_rest.dim())
        left = log_p.masked_fill(members, -torch.inf)  # [subsets, K, *batch]
        gone = left.isneginf()
        log_left = torch.logaddexp(left.logsumexp(1), log_rest)
        step = torch.where(gone, left, left - log_left.unsqueeze(1))
        level = (step + levels[0][following.to(log_p.device)]).logsumexp(1)
        levels.insert(0, torch.where(gone.all(1), 0.0, level))
    index = torch.zeros(samples, samples, dtype=torch.long)
    for number, (i, j) in enumerate(combinations(range(samples), 2)):
        index[i, j] = index[j, i] = number
    return levels[0][0], levels[1], levels[2][index.to(log_p.device)]


@lru_cache(maxsize=MOST_SAMPLES)
def _subsets(samples: int) -> list[tuple[Tensor, Tensor]]:
    """For every size below K: who is in each subset, ``[n, K]``, and which one of the next size it is with one more."""
    levels = []
    for size in range(samples):
        subsets, larger = (list(combinations(range(samples), n)) for n in (size, size + 1))
        number = {subset: i for i, subset in enumerate(larger)}
        members = torch.tensor([[s in subset for s in range(samples)] for subset in subsets])
        following = torch.tensor(
            [[number.get(tuple(sorted({*subset, s})), 0) for s in range(samples)] for subset in subsets]
        )
        levels.append((members, following))
    return levels
