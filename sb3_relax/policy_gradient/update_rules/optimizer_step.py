"""A2C's rule: a step of the policy's own optimizer."""

from __future__ import annotations

import torch as th

from sb3_relax.estimators import Estimate
from sb3_relax.policy_gradient.policy_view import PolicyOutput
from sb3_relax.policy_gradient.quick_step import take_step
from sb3_relax.policy_gradient.update_rules.base import UpdateRule


class PolicyOptimizerStep(UpdateRule):
    """A2C's rule: a step of the policy's optimizer, RMSprop unless ``policy_kwargs`` or ``use_rms_prop`` say else."""

    def step(
        self, output: PolicyOutput, estimate: Estimate, loss: th.Tensor, divisor: float, max_grad_norm: float
    ) -> float:
        norm = self.backward(estimate, loss, divisor, max_grad_norm)
        take_step(self.optimizer)
        return norm
