"""A control variate for the step's own action by a learned model of one step."""

from __future__ import annotations

from typing import Any

import torch as th

from sb3_relax.control_variates.at_states import FittedAtStates
from sb3_relax.control_variates.base import ControlVariate
from sb3_relax.control_variates.enumeration import has_few_actions
from sb3_relax.control_variates.learned import one_optimizer
from sb3_relax.control_variates.one_step_model import OneStepModel
from sb3_relax.estimators import (
    LAX,
    RELAX,
    ConditionedJoint,
    Estimate,
    ExactCorrection,
    Gaussian,
    RelaxedLatent,
    TwoPhaseEstimator,
)
from sb3_relax.policy_gradient.advantage_scale import AdvantageScale
from sb3_relax.policy_gradient.hyperparameters import DiscreteHyperparameters, Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView
from sb3_relax.policy_gradient.rollout import Rollout


class ModelBased(ControlVariate):
    """ĝ = [Â - q(s, a)] ∂θ log π(a|s) + ∂θ E_π q(s, ·), q(s, a) = r̂ + γ (1 - d̂) V(ŝ') - V(s) by a model of one step.

    The model (:class:`~sb3_relax.control_variates.one_step_model.OneStepModel`) is fitted by regression on recent
    steps, those of a rollout after it was used on this. Such a q is the model-based value expansion of one step
    (Feinberg et al. 2018, https://arxiv.org/abs/1803.00101), used here where its errors cost variance alone.

    q's mean is added again by a sum over all joint actions where there are at most 64, by LAX for Box actions, and by
    RELAX otherwise. q is of use where the action shows in what comes next; the smaller λ, the more.

    :param view: of the policy
    :param hyperparameters: ``n_cv_steps``; ``init_temperature``, the fixed τ of relaxed actions
    :raises UsageError: for a policy whose V is no function of its features, such as a recurrent one

    Example::

        RELAXA2C("MlpPolicy", "CartPole-v1", control_variate="model", n_steps=64, gae_lambda=0.5)
    """

    latents = (RelaxedLatent, Gaussian, ConditionedJoint)

    def __init__(self, view: PolicyView, hyperparameters: Hyperparameters):
        super().__init__()
        self.model = OneStepModel(view)
        self.n_steps = hyperparameters.n_cv_steps
        self.exactly = has_few_actions(view)
        self.reparameterised = isinstance(view.latent, Gaussian)
        self.draws_noise = not (self.exactly or self.reparameterised)
        self.temperature = (
            DiscreteHyperparameters.extending(hyperparameters).init_temperature if self.draws_noise else None
        )
        # q is in the unit of rewards, and Â in that of normalize_advantage
        self.plain_scale, self.signal_scale = AdvantageScale(), AdvantageScale()
        self.plain: th.Tensor | None = None
        self.optimizer = one_optimizer(None, list(self.model.parameters()))

    def prepare(self, rollout: Rollout, generator: th.Generator) -> None:
        self.model.prepare(rollout)
        self.plain = th.as_tensor(rollout.advantages)

    def q(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """The model's q in the unit that Â had in earlier batches."""
        return self.signal_scale.value / self.plain_scale.value * self.model(features, actions)

    def estimator(self, c: FittedAtStates) -> TwoPhaseEstimator:
        """The core's estimator that adds c's mean again."""
        if self.exactly:
            return ExactCorrection(c, center=False)  # V centres Â
        return LAX(c, center=False) if self.reparameterised else RELAX(c, center=False)

    def gradient(self, output: PolicyOutput, signal: th.Tensor, generator: th.Generator) -> Estimate:
        c = FittedAtStates(self.q, output.latent, output.features, self.temperature)
        return self.estimator(c).finish(output.latent, output.sample, signal, None, generator)

    def fit(
        self, output: PolicyOutput, signal: th.Tensor, estimate: Estimate, generator: th.Generator
    ) -> dict[str, float]:
        if self.plain is not None:
            self.plain_scale.observe(self.plain)
            self.signal_scale.observe(signal)
            self.plain = None
        return self.model.fit(self.optimizer, self.n_steps, generator)

    def forget(self) -> None:
        self.model.forget()

    def between_updates(self) -> Any:
        return {"recent": self.model.recent}

    def set_between_updates(self, state: Any) -> None:
        self.model.recent = state["recent"]
