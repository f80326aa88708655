"""V's fit to the returns."""

from __future__ import annotations

import torch as th
from torch.nn import functional as F

from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.gradients import clear_gradients
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView
from sb3_relax.policy_gradient.rollout import Batch


class Critic:
    """V by squared error: A2C's joint step, and further steps of the weights that V alone depends on.

    :param view: of the policy, whose value head V is, and whose optimizer steps it
    :param n_steps: of V per update, the joint one included
    """

    def __init__(self, view: PolicyView, n_steps: int):
        self.view = view
        self.n_steps = n_steps

    def loss(self, output: PolicyOutput, batch: Batch) -> th.Tensor:
        """Mean squared error of V, for the step that policy and V take together.

        :raises UsageError: where further steps are asked for, and no weight is V's alone
        """
        if self.n_steps > 1 and not self.view.critic_weights:
            raise UsageError("n_critic_steps > 1 needs weights that V alone depends on; this policy shares them all")
        return F.mse_loss(batch.returns, output.values)

    def fit(self, batch: Batch, vf_coef: float, max_grad_norm: float) -> None:
        """The further steps. The optimizer skips what has no gradient, so the policy's moments stay untouched.

        :param vf_coef: of the loss, as in the joint step
        :param max_grad_norm: that the gradient of V's own weights is clipped to
        """
        critic, optimizer = self.view.critic_weights, self.view.policy.optimizer
        for _ in range(self.n_steps - 1):
            values = self.view.predict_values(batch.observations, **batch.context)
            gradients = th.autograd.grad(vf_coef * F.mse_loss(batch.returns, values), critic)
            clear_gradients(optimizer)
            for parameter, gradient in zip(critic, gradients, strict=True):
                parameter.grad = gradient
            th.nn.utils.clip_grad_norm_(critic, max_grad_norm)
            optimizer.step()
