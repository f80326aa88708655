"""Samples without replacement of independent bits or one-hot variables (Kool, van Hoof and Welling 2019)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sb3_relax.estimators.latents import Latent, LogisticBernoulli, RelaxedLatent, open_unit

#: below it a class is one that a mask forbids
LEAST_LOG_PROBABILITY = -3e4


def log_probabilities(latent: Latent) -> Tensor:
    """Of every variable's classes, ``[*batch, D, C]``, without grad; bits have the classes 0 and 1."""
    assert isinstance(latent, RelaxedLatent)
    if not isinstance(latent, LogisticBernoulli):
        return latent.natural().detach()
    logits = latent.wide_theta.detach()
    return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=-1)


def as_classes(latent: Latent, b: Tensor) -> Tensor:
    """b as one-hots of these classes, ``[..., *batch, D, C]``."""
    return torch.stack([1 - b, b], dim=-1) if isinstance(latent, LogisticBernoulli) else b


def cannot_be_drawn(latent: Latent, b: Tensor) -> Tensor:
    """Which samples have a class in them that a mask forbids: ``[K, *batch]``."""
    return ((as_classes(latent, b) * log_probabilities(latent)).sum(-1) < LEAST_LOG_PROBABILITY).any(-1)


def earlier_pairs(pairs: Tensor) -> Tensor:
    """Which of K samples are paired with an earlier one: ``[K, K, ...]`` truth values → ``[K, ...]``."""
    earlier = torch.ones(pairs.shape[:2], dtype=torch.bool, device=pairs.device).tril(-1)
    return (pairs & earlier.reshape(*earlier.shape, *(1,) * (pairs.dim() - 2))).any(1)


@torch.no_grad()
def sample_without_replacement(latent: Latent, samples: int, generator: torch.Generator | None = None) -> Tensor:
    """K different values of b, each drawn as p(b|θ) says among those that are left: ``[K, *batch, *event]``.

    By stochastic beam search (arXiv:1903.06059). A prefix of the variables gets a Gumbel of its log-probability, which
    is the largest of those of all values that begin with it; variable by variable the K largest are kept. So none of
    the C^D values is ever listed. Where there are fewer than K values, the rest are copies of the first.

    :param latent: bits ``[*batch, D]`` or one-hots ``[*batch, D, C]``
    """
    log_p = log_probabilities(latent)
    batch, (variables, classes) = log_p.shape[:-2], log_p.shape[-2:]
    prefix, gumbel = log_p.new_zeros(*batch, 1), log_p.new_zeros(*batch, 1)
    chosen = torch.zeros(*batch, 1, 0, dtype=torch.long, device=log_p.device)
    for variable in range(variables):
        children = prefix.unsqueeze(-1) + log_p[..., variable, :].unsqueeze(-2)  # [*batch, kept, C]
        u = torch.rand(children.shape, dtype=log_p.dtype, device=log_p.device, generator=generator)
        raw = children - (-open_unit(u).log()).log()
        # the largest of a parent's children has the parent's own Gumbel; the others are moved along
        below = raw - raw.amax(-1, keepdim=True)
        v = gumbel.unsqueeze(-1) - raw + (-torch.expm1(below)).log()
        moved = gumbel.unsqueeze(-1) - v.clamp(min=0) - torch.log1p((-v.abs()).exp())
        kept = min(samples, moved.shape[-2] * classes)
        gumbel, index = moved.flatten(-2).topk(kept, dim=-1)
        prefix = children.flatten(-2).gather(-1, index)
        parents = chosen.gather(-2, (index // classes).unsqueeze(-1).expand(*index.shape, variable))
        chosen = torch.cat([parents, (index % classes).unsqueeze(-1)], dim=-1)
    values = chosen if isinstance(latent, LogisticBernoulli) else F.one_hot(chosen, classes)
    b = values.to(log_p.dtype).movedim(len(batch), 0)
    forbidden = cannot_be_drawn(latent, b)
    b = torch.where(forbidden.reshape(*forbidden.shape, *(1,) * latent.sample_ndim), b[:1], b)
    return b if len(b) == samples else torch.cat([b, b[:1].expand(samples - len(b), *b.shape[1:])])


@torch.no_grad()
def log_probability_left(latent: Latent, b: Tensor) -> Tensor:
    """log (1 - Σ p(s)) over the different values among K samples: ``[*batch]``, -inf where nothing is left.

    What is left is added up, not taken from 1: prefix by prefix of the variables, the probability of the classes with
    which no sample goes on. So it is right where the samples have all but a billionth of the probability.

    :param b: ``[K, *batch, *event]``
    """
    taken, log_p = as_classes(latent, b), log_probabilities(latent)
    own = (taken * log_p).sum(-1)
    agree = (taken.unsqueeze(0) * taken.unsqueeze(1)).sum(-1).cumprod(-1)  # j and k agree up to variable d
    # before variable d: those of the prefix that ends there
    agree = torch.cat([torch.ones_like(agree[..., :1]), agree[..., :-1]], dim=-1) > 0
    before = own.cumsum(-1) - own
    covered = (agree.unsqueeze(-1) & (taken > 0)).any(1)  # by a j that shares k's prefix
    left = log_p.expand_as(covered).masked_fill(covered, -torch.inf).logsumexp(-1) + before
    return left.masked_fill(earlier_pairs(agree), -torch.inf).movedim(0, -1).flatten(-2).logsumexp(-1)
