"""Masked actions of several variables as one batch, where sb3-contrib makes an object of each variable."""

from __future__ import annotations

import numpy as np
import torch as th

from sb3_relax.algorithm.contrib import (
    MaskableBernoulliDistribution,
    MaskableCategorical,
    MaskableDistribution,
    MaskableMultiCategoricalDistribution,
)
from sb3_relax.estimators.latents import arranged, log_softmax, masked_logit, open_unit
from sb3_relax.policy_gradient.several_categoricals import SeveralCategoricals, p_log_p

#: The most variables whose samples follow sb3-contrib's to the last random number. It asks the generator once for each
#: variable, which of many would take longer than all the rest of a step.
SAME_STREAM = 64


class BatchedMaskableMultiCategoricalDistribution(  # type: ignore[override]
    SeveralCategoricals, MaskableMultiCategoricalDistribution
):
    """sb3-contrib's ``MaskableMultiCategoricalDistribution`` (a ``MaskableBernoulliDistribution``: of two values each).

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
        self.outputs = arranged(self.outputs)
        return self

    def apply_masking(self, masks: th.Tensor | np.ndarray | None) -> None:
        """As sb3-contrib's.

        :param masks: ``[N, Σ sizes]``; ``None`` allows all again
        """
        if masks is not None:
            flat = th.as_tensor(masks, dtype=th.bool, device=self.outputs.device)
            masks = self.spread(flat.reshape(self.outputs.shape[0], sum(self.sizes)))
            masks = arranged(masks if self.are_alike else masks & self.exists)
        self.masks = masks
        self.forget_logits()

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
        return -open_unit(like.new_empty(len(like), sum(self.sizes)).uniform_()).log()

    def allowed(self) -> th.Tensor | None:
        return super().allowed() if self.masks is None else self.masks

    @property
    def distributions(self) -> list[MaskableCategorical]:  # type: ignore[override]
        """One of each variable, as sb3-contrib's has them."""
        parts = []
        for d, size in enumerate(self.sizes):
            mask = None if self.masks is None else self.masks[:, d, :size]
            parts.append(MaskableCategorical(logits=self.outputs[:, d, :size], masks=mask))
        return parts


def batched(distribution: MaskableDistribution) -> MaskableDistribution:
    """The same distribution with all its variables in one batch, where it is sb3-contrib's own of several; else itself.

    Example::

        model = MaskablePPO("MlpPolicy", env)  # sb3-contrib's
        model.policy.action_dist = batched(model.policy.action_dist)
    """
    if type(distribution) in (MaskableMultiCategoricalDistribution, MaskableBernoulliDistribution):
        return BatchedMaskableMultiCategoricalDistribution(distribution.action_dims)  # type: ignore[attr-defined]
    return distribution
