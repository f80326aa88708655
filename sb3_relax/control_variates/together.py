"""Several control variates for the step's own action at once, each with a share of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th
from torch import nn

from sb3_relax.control_variates.base import ControlVariate, checked_fit, checked_gradient, require_actions
from sb3_relax.control_variates.learned import one_optimizer
from sb3_relax.control_variates.share import LearnedShares
from sb3_relax.estimators import Estimate
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView
from sb3_relax.policy_gradient.rollout import Rollout


class SumEstimate(Estimate):
    """g + Σ_i η_i (ĝ_i - g): the plain score term g, and of each ĝ_i a share of what it changes in g.

    :param parts: estimates of one batch, at least one
    :param shares: η, one for each
    """

    def __init__(self, parts: Sequence[Estimate], shares: Sequence[float]):
        first = parts[0]
        grad = first.score_term
        for part, share in zip(parts, shares, strict=True):
            if share > 0:  # 0 · NaN would be NaN
                grad = grad + share * (part.grad - first.score_term)
        super().__init__(first.latent, first.value, grad, score=first.score)
        self.parts = parts


class Together(ControlVariate):
    """ĝ = g + Σ_i η_i (ĝ_i - g), g = Â ∂θ log π(a|s) and ĝ_i of control variates for the step's own action.

    Each learns as it does alone. The shares are fitted jointly
    (:class:`~sb3_relax.control_variates.share.LearnedShares`), so that what several of them remove is removed once;
    without ``cv_guard`` each is 1. A mean of zero goes with any shares that were fixed before the batch.

    What later actions add needs no share beside these: :class:`~sb3_relax.control_variates.trajectory.Trajectory` takes
    out what has mean zero given state and action, whatever these do, so that its own share is the joint one.

    What a part logs has the name of its class behind it: ``train/cv_loss_StateBaseline``.

    :param view: of the policy
    :param hyperparameters: ``cv_guard``
    :param parts: at least one
    :raises UsageError: for a part that does not take the policy's actions

    Example::

        RELAXA2C("MlpPolicy", "CartPole-v1", control_variate="model+state")
    """

    def __init__(self, view: PolicyView, hyperparameters: Hyperparameters, parts: Sequence[ControlVariate]):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.learned_shares = LearnedShares(len(parts)) if hyperparameters.cv_guard else None
        self.draws_noise = any(part.draws_noise for part in parts)
        self.needs_second_derivative = any(part.needs_second_derivative for part in parts)
        for part in parts:
            require_actions(type(part).__name__, part, view)
            self.optimizer = one_optimizer(self.optimizer, list(part.parameters()))
        for part in parts:
            if part.optimizer is not None:
                part.optimizer = self.optimizer

    @property
    def each(self) -> list[ControlVariate]:
        """The parts."""
        return [part for part in self.parts if isinstance(part, ControlVariate)]

    @property
    def names(self) -> list[str]:
        """What each part's numbers are logged by: its class, and its place where there are several of one class."""
        kinds = [type(part).__name__ for part in self.parts]
        return [kind if kinds.count(kind) == 1 else f"{kind}_{i}" for i, kind in enumerate(kinds)]

    @property
    def shares(self) -> list[float]:
        """η, fixed before the batch."""
        return [1.0] * len(self.parts) if self.learned_shares is None else self.learned_shares.shares

    def prepare(self, rollout: Rollout, generator: th.Generator) -> None:
        for part in self.each:
            part.prepare(rollout, generator)

    def gradient(self, output: PolicyOutput, signal: th.Tensor, generator: th.Generator) -> SumEstimate:
        return SumEstimate([checked_gradient(part, output, signal, generator) for part in self.each], self.shares)

    def fit(
        self, output: PolicyOutput, signal: th.Tensor, estimate: Estimate, generator: th.Generator
    ) -> dict[str, float]:
        assert isinstance(estimate, SumEstimate)
        log: dict[str, float] = {}
        for name, part, own, share in zip(self.names, self.each, estimate.parts, self.shares, strict=True):
            own_log = {"cv_share": share, **checked_fit(part, output, signal, own, generator)}
            log |= {f"{key}_{name}": value for key, value in own_log.items()}
        return log

    def observe(self, estimate: Estimate) -> None:
        assert isinstance(estimate, SumEstimate)
        plain = estimate.score_term
        if self.learned_shares is not None:
            self.learned_shares.learn(plain, [own.grad - plain for own in estimate.parts])
        for part, own in zip(self.each, estimate.parts, strict=True):
            part.observe(own)

    def forget(self) -> None:
        for part in self.each:
            part.forget()

    def between_updates(self) -> Any:
        return [part.between_updates() for part in self.each]

    def set_between_updates(self, state: Any) -> None:
        for part, of_part in zip(self.each, state, strict=True):
            part.set_between_updates(of_part)
