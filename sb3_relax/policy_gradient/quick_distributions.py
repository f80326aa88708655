"""SB3's distributions of classes and of numbers, without what torch's constructors do around their parameters.

They look for the right shapes, broadcast and check, which takes longer than the arithmetic where a step has a few
environments. torch's own ``Categorical.expand()`` and ``Normal.expand()`` make distributions in the way that is used
here. Where torch checks arguments, SB3's distribution is asked itself.
"""

from __future__ import annotations

import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from torch.distributions import Categorical, Normal
from torch.distributions import Distribution as TorchDistribution


def of_classes(kept: CategoricalDistribution, logits: th.Tensor) -> CategoricalDistribution:
    """``kept.proba_distribution(logits)``, to the last bit.

    :param logits: ``[N, K]``
    """
    if TorchDistribution._validate_args:
        return kept.proba_distribution(logits)
    made, normalised = Categorical.__new__(Categorical), logits - logits.logsumexp(dim=-1, keepdim=True)
    vars(made).update(logits=normalised, _param=normalised, _num_events=logits.shape[-1])
    TorchDistribution.__init__(made, logits.shape[:-1])
    kept.distribution = made
    return kept


def of_numbers(kept: DiagGaussianDistribution, mean: th.Tensor, log_std: th.Tensor) -> DiagGaussianDistribution:
    """``kept.proba_distribution(mean, log_std)``, to the last bit.

    :param mean: ``[N, D]``
    :param log_std: ``[D]``
    """
    if TorchDistribution._validate_args:
        return kept.proba_distribution(mean, log_std)
    made = Normal.__new__(Normal)
    made.loc, made.scale = mean, th.ones_like(mean) * log_std.exp()
    TorchDistribution.__init__(made, mean.shape)
    kept.distribution = made
    return kept
