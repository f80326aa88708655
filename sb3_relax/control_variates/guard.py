"""How far to trust a control variate, by what it did to earlier batches."""

from __future__ import annotations

import math

import torch as th

from sb3_relax.control_variates.base import ControlVariate
from sb3_relax.estimators import Estimate
from sb3_relax.estimators.moments import ChangeMoments
from sb3_relax.estimators.precision import in_dtype
from sb3_relax.policy_gradient.policy_view import PolicyOutput
from sb3_relax.policy_gradient.rollout import Rollout

#: more than that many times ‖g‖² is no ‖ĝ - g‖² that is averaged: ten of them would be no float32
LARGEST = 1e37


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


class Guarded(ControlVariate):
    """Another control variate, applied with the share η that would have lowered the variance of earlier batches.

    η in [0, 1] minimises the variance of g + η (ĝ - g), g the plain score term and ĝ the estimate with ĉ in full:
    η = -E⟨g, ĝ - g⟩ / E‖ĝ - g‖². It is fixed before the batch, so the gradient stays unbiased. Every batch counts the
    same, since each is divided by its own E‖g‖²: a ĉ that was right when advantages were large would otherwise go on
    adding noise when they have become small (CartPole once it is solved). Before any evidence η = 0, which is A2C, and
    so it is after a batch in which ĝ was not finite, or so large that its square was not.

    :param variate: the control variate
    :param decay: weight of the past
    """

    cross: th.Tensor
    square: th.Tensor
    size: th.Tensor

    def __init__(self, variate: ControlVariate, decay: float = 0.9):
        super().__init__()
        self.variate = variate
        self.decay = decay
        self.latents, self.draws_noise = variate.latents, variate.draws_noise
        self.needs_second_derivative = variate.needs_second_derivative
        for name in ("cross", "square", "size"):
            self.register_buffer(name, th.zeros(()))

    @property
    def share(self) -> float:
        """η, the share of the control variate that is applied."""
        square = self.square.item()
        best = -self.cross.item() / square if square > 0 else 0.0
        return min(best, 1.0) if best > 0 else 0.0  # also where the statistics have become NaN

    @property
    def optimizer(self) -> th.optim.Optimizer | None:  # type: ignore[override]
        return self.variate.optimizer

    def set_learning_rate(self, rate: float) -> None:
        self.variate.set_learning_rate(rate)

    def prepare(self, rollout: Rollout) -> None:
        self.variate.prepare(rollout)

    def gradient(self, output: PolicyOutput, signal: th.Tensor, generator: th.Generator) -> GuardedEstimate:
        return GuardedEstimate(self.variate.gradient(output, signal, generator), self.share)

    def fit(
        self, output: PolicyOutput, signal: th.Tensor, estimate: Estimate, generator: th.Generator
    ) -> dict[str, float]:
        assert isinstance(estimate, GuardedEstimate)
        return {"cv_gain": estimate.share, **self.variate.fit(output, signal, estimate.full, generator)}

    def observe(self, estimate: Estimate) -> None:
        assert isinstance(estimate, GuardedEstimate)
        self.take_in(estimate.full.moments)
        self.variate.observe(estimate.full)

    def take_in(self, moments: ChangeMoments) -> None:
        """Let η learn from a batch, after it was used.

        :param moments: of the plain score term, and of what the control variate in full changes in it
        """
        size, cross, square = moments.square
        past = self.size.item()
        # a batch whose advantages happen to vanish says nothing of ĉ: divided by its own size it would drown the others
        divisor = max(size, 0.1 * past)
        # nor does one whose own square overflows
        if not (divisor > 0 and math.isfinite(divisor)):
            return
        cross, square = cross / divisor, square / divisor
        if not (math.isfinite(cross) and square < LARGEST):
            # of what is beyond all measure, no share would be small enough: η = 0, and what was known is forgotten
            self.cross.zero_()
            self.square.zero_()
            return
        self.cross.mul_(self.decay).add_(cross)
        self.square.mul_(self.decay).add_(square)
        self.size.fill_(size if past == 0 else self.decay * past + (1 - self.decay) * size)
