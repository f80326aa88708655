"""Masked actions of several variables as one batch, where sb3-contrib makes an object of each variable."""

from __future__ import annotations

from functools import cached_property
from math import isfinite

import numpy as np
import torch as th
from torch.distributions import Distribution as TorchDistribution
from torch.distributions import constraints
from torch.nn import functional as F

from sb3_relax.algorithm.contrib import (
    MaskableBernoulliDistribution,
    MaskableCategorical,
    MaskableDistribution,
    MaskableMultiCategoricalDistribution,
)
from sb3_relax.estimators import GumbelOneHot, Latent, LogisticBernoulli
from sb3_relax.estimators.latents import arranged, log_softmax, masked_logit, open_unit, require_class
from sb3_relax.policy_gradient.several_categoricals import SeveralCategoricals, p_log_p

#: The most variables whose samples follow sb3-contrib's to the last random number. It asks the generator once for each
#: variable, which of many would take longer than all the rest of a step.
SAME_STREAM = 64


class BatchedMaskableMultiCategoricalDistribution(  # type: ignore[override]
    SeveralCategoricals, MaskableMultiCategoricalDistribution
):
    """sb3-contrib's ``MaskableMultiCategoricalDistribution``.

    Of more than ``SAME_STREAM`` variables the samples have the same distribution, but not the same random numbers.

    Example::

        of = BatchedMaskableMultiCategoricalDistribution([3, 5, 2]).proba_distribution(th.zeros(4, 10))
        of.apply_masking(masks)  # [4, 10], True where a value may be drawn
        of.log_prob(of.sample())  # [4]
    """

    #: True where a value may be drawn, ``[N, D, K]``; ``None``: all
    masks: th.Tensor | None = None

    def proba_distribution(self, action_logits: th.Tensor) -> BatchedMaskableMultiCategoricalDistribution:
        self.masks = None
        super().proba_distribution(action_logits)
        self.outputs = self.laid_out(self.outputs)
        return self

    def apply_masking(self, masks: th.Tensor | np.ndarray | None) -> None:
        """As sb3-contrib's.

        :param masks: ``[N, Σ sizes]``; ``None`` allows all again
        """
        if masks is not None:
            flat = th.as_tensor(masks, dtype=th.bool, device=self.outputs.device)
            masks = self.spread(flat.reshape(self.outputs.shape[0], self.size))
            masks = self.laid_out(masks if self.are_alike else masks & self.exists)
        self.masks = masks
        self.forget_logits()

    def laid_out(self, values: th.Tensor) -> th.Tensor:
        """The same numbers ``[N, D, K]``, lying in memory as the softmax over K reads them fastest."""
        return arranged(values)

    def normalised(self) -> th.Tensor:
        if self.masks is None:
            return log_softmax(self.outputs)
        kept = self.masks if self.are_alike else self.masks | ~self.exists
        return log_softmax(th.where(kept, self.outputs, masked_logit(self.outputs.dtype)))

    def entropy(self) -> th.Tensor:
        if self.masks is None:
            return super().entropy()
        return -th.where(self.masks, p_log_p(self.logits), 0.0).sum((-2, -1))

    def exponential(self, like: th.Tensor) -> th.Tensor:
        if len(self.sizes) <= SAME_STREAM:
            return super().exponential(like)
        return -open_unit(like.new_empty(len(like), self.size).uniform_()).log()

    def latent(self) -> Latent:
        return super().latent() if self.masks is None else GumbelOneHot(self.logits, self.masks)

    @property
    def distributions(self) -> list[MaskableCategorical]:  # type: ignore[override]
        """One of each variable, as sb3-contrib's has them."""
        parts = []
        for d, size in enumerate(self.sizes):
            mask = None if self.masks is None else self.masks[:, d, :size]
            parts.append(MaskableCategorical(logits=self.outputs[:, d, :size], masks=mask))
        return parts


class MaskedBits(BatchedMaskableMultiCategoricalDistribution):
    """sb3-contrib's ``MaskableBernoulliDistribution``, of one number for each bit in the place of two.

    A bit is 1 with probability σ(l), where l is the difference of its two logits. That of a forbidden value is -1e8, as
    in sb3-contrib: a bit that has one value left is that one with probability 1, in rounding too.

    Example::

        of = MaskedBits([2, 2, 2]).proba_distribution(th.zeros(4, 6))
        of.apply_masking(masks)  # [4, 6]: whether the first bit may be 0, whether it may be 1, ...
        of.log_prob(of.sample())  # [4]
    """

    def laid_out(self, values: th.Tensor) -> th.Tensor:
        return values  # no softmax is taken of two values

    def forget_logits(self) -> None:
        super().forget_logits()
        vars(self).pop("bit_logits", None)

    @cached_property
    def bit_logits(self) -> th.Tensor:
        """l, ``[N, D]``."""
        with th.set_grad_enabled(self.outputs.requires_grad):
            outputs = self.outputs
            if self.masks is not None:
                outputs = th.where(self.masks, outputs, masked_logit(outputs.dtype))
            of_zero, of_one = outputs.unbind(-1)
            return of_one - of_zero

    def normalised(self) -> th.Tensor:
        return th.stack([F.logsigmoid(-self.bit_logits), F.logsigmoid(self.bit_logits)], dim=-1)

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        actions = actions.reshape(-1, len(self.sizes))
        if TorchDistribution._validate_args and not bool(constraints.boolean.check(actions).all()):
            raise ValueError(f"actions must be bits, 0 or 1; got {actions}")
        of_each = F.binary_cross_entropy_with_logits(self.bit_logits, actions.to(self.bit_logits), reduction="none")
        return -of_each.sum(-1)

    def entropy(self) -> th.Tensor:
        p = self.bit_logits.sigmoid()
        of_each = F.binary_cross_entropy_with_logits(self.bit_logits, p, reduction="none")
        if self.masks is not None:
            may_be_zero, may_be_one = self.masks.unbind(-1)  # quicker than all(-1), of hundreds of bits
            of_each = th.where(may_be_zero & may_be_one, of_each, 0.0)
        return of_each.sum(-1)

    def sample(self) -> th.Tensor:
        if len(self.sizes) <= SAME_STREAM:
            return super().sample()
        p = self.bit_logits.detach().sigmoid()
        if not isfinite(p.sum().item()):
            th.bernoulli(p)  # raises torch's own error
        return (th.rand_like(p) < p).long()

    def mode(self) -> th.Tensor:
        return (self.bit_logits > 0).long()

    def latent(self) -> Latent:
        if self.masks is not None:
            may_be_zero, may_be_one = self.masks.unbind(-1)
            require_class((may_be_zero | may_be_one).unsqueeze(-1))
        return LogisticBernoulli(self.bit_logits)


def batched(distribution: MaskableDistribution) -> MaskableDistribution:
    """The same distribution with all its variables in one batch, where it is sb3-contrib's own of several; else itself.

    Example::

        model = MaskablePPO("MlpPolicy", env)  # sb3-contrib's
        model.policy.action_dist = batched(model.policy.action_dist)
    """
    if type(distribution) is MaskableMultiCategoricalDistribution:
        return BatchedMaskableMultiCategoricalDistribution(distribution.action_dims)
    if type(distribution) is MaskableBernoulliDistribution:
        return MaskedBits(distribution.action_dims)
    return distribution
