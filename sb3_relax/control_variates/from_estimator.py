"""An estimator of the core as a control variate: NVIL, DLAX, REINFORCE itself, and your own."""

from __future__ import annotations

import torch as th

from sb3_relax.control_variates.learned import LearnedControlVariate
from sb3_relax.errors import UsageError
from sb3_relax.estimators import Estimate, TwoPhaseEstimator
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView


class FromEstimator(LearnedControlVariate):
    """ĝ as an estimator of the core gives it for f(b) = Â, its own φ trained by its own rule.

    The core's c_φ reads the action alone, or the action and θ (``ThetaSurrogate``, NVIL's baseline of θ): θ is then all
    it knows of the state.

    :param estimator: that needs no more of f than its value, at one sample
    :param view: of the policy
    :param hyperparameters: see :class:`LearnedControlVariate`
    :raises UsageError: for an estimator that needs several actions of one state (RLOO, VIMCO): an environment gives one
    :raises TypeError: for an estimator that does not take the policy's latent
    """

    def __init__(self, estimator: TwoPhaseEstimator, view: PolicyView, hyperparameters: Hyperparameters):
        super().__init__(view, hyperparameters)
        if estimator.samples != 1:
            raise UsageError(
                f"{type(estimator).__name__} needs {estimator.samples} actions of every state, and an environment "
                "gives one: use an estimator of one sample, such as NVIL"
            )
        estimator.require_latent(view.latent)
        self.latents = type(estimator).latents
        self.draws_noise = estimator.noise_shape(view.latent) is not None
        self.estimator = estimator
        self.optimize(estimator.parameters())

    def gradient(self, output: PolicyOutput, signal: th.Tensor, generator: th.Generator) -> Estimate:
        return self.estimator.finish(output.latent, output.sample, signal, None, generator)

    def observe(self, estimate: Estimate) -> None:
        estimate.learn()
