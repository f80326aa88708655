"""Actions drawn of a policy's distribution while it acts."""

from __future__ import annotations

from math import isfinite

import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution, Distribution
from torch.distributions import Categorical, Normal


def draw_actions(distribution: Distribution) -> tuple[th.Tensor, th.Tensor]:
    """``distribution.get_actions()`` and their ``log_prob()``, ``[N]``, to the last bit.

    Of n classes, torch draws the one whose p/E is largest, with E ~ Exp(1) for each. On the way it looks three times at
    whether all p are finite and not negative. Here the log-probabilities tell, which are not finite where p was not. Of
    numbers, torch draws ε ~ N(0, 1) by way of tensors of zeros and of ones.

    Both are what torch does on the CPU; elsewhere, and of every other distribution, it is asked itself.

    :raises RuntimeError: torch's own, where probabilities of classes are not finite
    """
    known = type(distribution) in (CategoricalDistribution, DiagGaussianDistribution)
    inner = distribution.distribution if known else None
    if type(distribution) is CategoricalDistribution and type(inner) is Categorical and inner.logits.is_cpu:
        probabilities = inner.logits.softmax(-1)
        exponential = th.empty_like(probabilities).exponential_()
        actions = (probabilities / exponential).argmax(-1)
        log_prob = inner.logits.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        if isfinite(log_prob.sum().item()):
            return actions, log_prob
    if type(distribution) is DiagGaussianDistribution and type(inner) is Normal and inner.loc.is_cpu:
        noise = th.randn_like(inner.loc, memory_format=th.contiguous_format)
        actions = inner.loc + noise * inner.scale
    else:
        actions = distribution.get_actions()
    return actions, distribution.log_prob(actions)
