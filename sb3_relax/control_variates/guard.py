"""How far to trust a control variate, by what it did to earlier batches."""

from __future__ import annotations

from typing import Any

import torch as th

from sb3_relax.control_variates.base import ControlVariate, checked_fit, checked_gradient
from sb3_relax.control_variates.share import LearnedShare
from sb3_relax.estimators import Estimate
from sb3_relax.estimators.moments import ChangeMoments
from sb3_relax.estimators.precision import in_dtype
from sb3_relax.policy_gradient.policy_view import PolicyOutput
from sb3_relax.policy_gradient.rollout import Rollout


class GuardedEstimate(Estimate):
    """g + η (ĝ - g): the plain score term g, and a share η of what the control variate changes in it.

    At η = 0 it is g, whatever ĝ is.

    :param full: the estimate with the control variate in full
    :param share: η, in [0, 1]
    """

    def __init__(self, full: Estimate, share: float):
        grad = full.score_term
        if share > 0:  # 0 · NaN would be NaN
            grad = th.lerp(grad, in_dtype(full.grad, grad.dtype), share)
        super().__init__(full.latent, full.value, grad, score=full.score)
        self.full = full
        self.share = share

    @property
    def moments(self) -> ChangeMoments:
        return self.full.moments.at_share(self.share)


class Guarded(LearnedShare, ControlVariate):
    """Another control variate, applied with the share η that would have lowered the variance of earlier batches.

    η in [0, 1] minimises the variance of g + η (ĝ - g), g the plain score term and ĝ the estimate with ĉ in full:
    :class:`~sb3_relax.control_variates.share.LearnedShare`. Before any evidence η = 0, which is A2C.

    :param variate: the control variate
    :param decay: weight of the past
    """

    def __init__(self, variate: ControlVariate, decay: float = 0.9):
        super().__init__(decay)
        self.variate = variate
        self.latents, self.draws_noise = variate.latents, variate.draws_noise
        self.needs_second_derivative = variate.needs_second_derivative

    @property
    def optimizer(self) -> th.optim.Optimizer | None:  # type: ignore[override]
        return self.variate.optimizer

    def set_learning_rate(self, rate: float) -> None:
        self.variate.set_learning_rate(rate)

    def prepare(self, rollout: Rollout, generator: th.Generator) -> None:
        self.variate.prepare(rollout, generator)

    def gradient(self, output: PolicyOutput, signal: th.Tensor, generator: th.Generator) -> GuardedEstimate:
        return GuardedEstimate(checked_gradient(self.variate, output, signal, generator), self.share)

    def fit(
        self, output: PolicyOutput, signal: th.Tensor, estimate: Estimate, generator: th.Generator
    ) -> dict[str, float]:
        assert isinstance(estimate, GuardedEstimate)
        return {"cv_gain": estimate.share, **checked_fit(self.variate, output, signal, estimate.full, generator)}

    def observe(self, estimate: Estimate) -> None:
        assert isinstance(estimate, GuardedEstimate)
        self.take_in(estimate.full.moments)
        self.variate.observe(estimate.full)

    def forget(self) -> None:
        self.variate.forget()

    def take_in(self, moments: ChangeMoments) -> None:
        """Let η learn from a batch, after it was used.

        :param moments: of the plain score term, and of what the control variate in full changes in it
        """
        self.learn_share(*moments.square)

    def between_updates(self) -> Any:
        return self.variate.between_updates()

    def set_between_updates(self, state: Any) -> None:
        self.variate.set_between_updates(state)
