"""RELAX (Eq 8, 10): a control variate for discrete actions, corrected through their relaxation."""

from __future__ import annotations

from typing import Any

from sb3_relax.control_variates.learned import NetworkControlVariate
from sb3_relax.control_variates.network import AtStates
from sb3_relax.estimators import RELAX, ConditionedJoint, RelaxedLatent
from sb3_relax.policy_gradient.hyperparameters import DiscreteHyperparameters, Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyView


class RELAXControlVariate(NetworkControlVariate):
    """ĝ = [Â - ĉ(z̃, s)] ∂θ log π(a|s) + ∂θ ĉ(z, s) - ∂θ ĉ(z̃, s), z the relaxed action, z̃ the same given a.

    Unbiased given the advantage estimator, for any ĉ. Actions enter ĉ as softmax(z/τ) or sigmoid(z/τ), τ part of φ. Of
    actions of several parts, the continuous ones enter as they are, and the estimate is LAX's in them.
    Grathwohl et al. 2018, https://arxiv.org/abs/1711.00123.

    :param hyperparameters: ``correction`` (``"coupled"`` or ``"relaxed"``), ``n_relaxed`` and ``init_temperature``
        besides; their defaults where they are of a class that has none
    """

    latents = (RelaxedLatent, ConditionedJoint)

    def __init__(self, view: PolicyView, hyperparameters: Hyperparameters):
        discrete = DiscreteHyperparameters.extending(hyperparameters)
        self.options: Any = {"coupled": discrete.correction != "relaxed", "draws": discrete.n_relaxed}
        super().__init__(view, hyperparameters, discrete.init_temperature)

    def estimator(self, c: AtStates) -> RELAX:
        return RELAX(c, **self.options, center=False)  # V centres Â
