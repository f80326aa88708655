"""The trajectory-wise control variate whose ã is a learned model of one step."""

from __future__ import annotations

from typing import Any

import torch as th

from sb3_relax.control_variates.base import ControlVariate
from sb3_relax.control_variates.centred import EnumeratedMean, SampledMean
from sb3_relax.control_variates.enumeration import has_few_actions
from sb3_relax.control_variates.one_step_model import OneStepModel
from sb3_relax.control_variates.trajectory import Corrected, Trajectory
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyView
from sb3_relax.policy_gradient.rollout import Rollout


class TrajectoryByModel(Trajectory):
    """:class:`Trajectory` with ã(s, a) = q(s, a) - E_π q(s, ·), q = r̂ + γ (1 - d̂) V(ŝ') - V(s) by a model of one step.

    With exact predictions of deterministic dynamics, and the V of the policy, nothing of what later actions add is
    left. Cheng et al. 2019 (https://arxiv.org/abs/1908.03263).

    The mean is a sum over all joint actions where there are at most 64, and that of sixteen drawn ones otherwise. The
    model is :class:`~sb3_relax.control_variates.one_step_model.OneStepModel`; before ``"model"`` for the step's own
    action, one serves both.

    :param view: of the policy
    :param hyperparameters: ``cv_guard``, ``n_cv_steps``
    :param own_step: as :class:`Trajectory`'s
    :raises UsageError: for a policy whose V is no function of its features, such as a recurrent one

    Example::

        RELAXA2C("MlpPolicy", "CartPole-v1", control_variate="trajectory_model+model", n_steps=64)
    """

    def __init__(self, view: PolicyView, hyperparameters: Hyperparameters, own_step: ControlVariate | None = None):
        parts = [] if own_step is None else own_step.modules()
        theirs = next((part for part in parts if isinstance(part, OneStepModel)), None)
        model = OneStepModel(view) if theirs is None else theirs
        centred = EnumeratedMean(view, model) if has_few_actions(view) else SampledMean(view, q=model)
        super().__init__(view, hyperparameters, own_step, centred)
        self.fits_model = theirs is None

    @property
    def model(self) -> OneStepModel:
        """Of one step."""
        assert isinstance(self.centred, (EnumeratedMean, SampledMean))
        model = self.centred.q
        assert isinstance(model, OneStepModel)
        return model

    @property
    def unit(self) -> float:
        """The model's q has that of the rewards."""
        return 1.0

    def prepare(self, rollout: Rollout, generator: th.Generator) -> None:
        self.model.prepare(rollout)
        super().prepare(rollout, generator)

    def learn(self, done: Corrected, generator: th.Generator) -> dict[str, float]:
        """Of what was seen to follow each step, unless the own step's control variate has done so."""
        return self.descend(generator)

    def descend(self, generator: th.Generator) -> dict[str, float]:
        return self.model.fit(self.optimizer, self.n_steps, generator) if self.fits_model else {}

    def forget(self) -> None:
        super().forget()
        self.model.forget()

    def between_updates(self) -> Any:
        return {**super().between_updates(), "model": self.model.recent}

    def set_between_updates(self, state: Any) -> None:
        super().set_between_updates(state)
        self.model.recent = state["model"]
