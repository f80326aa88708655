"""Actions drawn of a policy's distribution while it acts."""

from __future__ import annotations

from math import isfinite

import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution, Distribution
from torch.distributions import Categorical


def draw_actions(distribution: Distribution) -> tuple[th.Tensor, th.Tensor]:
    """``distribution.get_actions()`` and their ``log_prob()``, ``[N]``, to the last bit.

    Of n classes, torch draws the one whose p/E is largest, with E ~ Exp(1) for each. On the way it looks three times at
    whether all p are finite and not negative. Here the log-probabilities tell, which are not finite where p was not.

    :raises RuntimeError: torch's own, where probabilities of classes are not finite
    """
    classes = distribution.distribution
    if type(distribution) is CategoricalDistribution and type(classes) is Categorical and classes.logits.is_cpu:
        probabilities = classes.logits.softmax(-1)
        exponential = th.empty_like(probabilities).exponential_()
        actions = (probabilities / exponential).argmax(-1)
        log_prob = classes.logits.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        if isfinite(log_prob.sum().item()):
            return actions, log_prob
    actions = distribution.get_actions()
    return actions, distribution.log_prob(actions)
