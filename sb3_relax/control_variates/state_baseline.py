"""A state baseline ĉ(s) on top of V, learned as the action-dependent control variates are: their control."""

from __future__ import annotations

import torch as th

from sb3_relax.control_variates.learned import LearnedControlVariate
from sb3_relax.control_variates.network import StateNetwork
from sb3_relax.estimators import Estimate
from sb3_relax.estimators.estimate import expand_to
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView


class StateBaseline(LearnedControlVariate):
    """ĝ = [Â - ĉ(s)] ∂θ log π(a|s): no correction is needed, since the score's mean is zero.

    Trained on Eq 6 as the others are, it comes to E[‖∂ log π‖² Â | s] / E[‖∂ log π‖² | s], the state baseline of least
    variance (Greensmith et al. 2004). Without it beside them, no gain can be put down to the actions.
    """

    draws_noise = False

    def __init__(self, view: PolicyView, hyperparameters: Hyperparameters):
        super().__init__(view, hyperparameters)
        self.network = StateNetwork.of(view)
        self.optimize(self.network.parameters())

    def gradient(self, output: PolicyOutput, signal: th.Tensor, generator: th.Generator) -> Estimate:
        score = output.latent.score(output.sample)
        grad = expand_to(signal - self.network(output.features), output.latent) * score
        return Estimate(output.latent, signal, grad, score=score, phi=tuple(self.network.parameters()))

    def observe(self, estimate: Estimate) -> None:
        self.network.observe(estimate.value)
