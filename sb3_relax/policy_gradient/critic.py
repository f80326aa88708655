"""V's fit to the returns."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.utils import update_learning_rate
from torch.nn import functional as F

from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.gradients import clear_gradients, parameters_of
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView
from sb3_relax.policy_gradient.rollout import Batch


class Critic:
    """V by squared error: A2C's joint step, and further steps of the weights that V alone depends on.

    Those weights are stepped by the policy's optimizer or, at a rate of their own, by a second one of its kind. Weights
    that the action distribution depends on too stay with the policy's.

    :param view: of the policy, whose value head V is
    :param n_steps: of V per update, the joint one included
    :param own_rate: whether V has a learning rate of its own (see :meth:`set_learning_rate`)
    :raises UsageError: where it would, and no weight is V's alone
    """

    def __init__(self, view: PolicyView, n_steps: int, own_rate: bool = False):
        self.view = view
        self.n_steps = n_steps
        self.optimizer = self._take_weights() if own_rate else None

    def _take_weights(self) -> th.optim.Optimizer:
        """An optimizer for what V alone depends on, which the policy's optimizer gives up."""
        policy = self.view.policy
        own = self.view.critic_weights
        if not own:
            raise UsageError("critic_learning_rate needs weights that V alone depends on; this policy shares them all")
        make: Any = policy.optimizer_class
        rate = policy.optimizer.defaults["lr"]

        def groups_of(wanted: bool) -> list[dict[str, Any]]:
            # a group holds every setting
            groups = [
                {**group, "params": [p for p in group["params"] if any(p is weight for weight in own) == wanted]}
                for group in policy.optimizer.param_groups
            ]
            return [group for group in groups if group["params"]]

        # a policy that an agent had before has given its weights up already
        of_critic = groups_of(True) or [{**policy.optimizer.param_groups[0], "params": own}]
        # the default is the rate that training began with
        rate = policy.optimizer.defaults["lr"]
        critic, policy.optimizer = make(of_critic, lr=rate), make(groups_of(False), lr=rate)
        return critic

    def set_learning_rate(self, rate: float) -> None:
        """Of V's own weights, where it is not the policy's."""
        if self.optimizer is not None:
            update_learning_rate(self.optimizer, rate)

    def loss(self, output: PolicyOutput, batch: Batch) -> th.Tensor:
        """Mean squared error of V, for the backward pass that policy and V share.

        :raises UsageError: where further steps are asked for, and no weight is V's alone
        """
        if self.n_steps > 1 and not self.view.critic_weights:
            raise UsageError("n_critic_steps > 1 needs weights that V alone depends on; this policy shares them all")
        if self.optimizer is not None:
            clear_gradients(self.optimizer)
        return F.mse_loss(batch.returns, output.values)

    def fit(self, batch: Batch, vf_coef: float, max_grad_norm: float) -> None:
        """The steps that V takes alone. Optimizers skip what has no gradient, so the policy's moments stay untouched.

        :param vf_coef: of the loss, as in the joint step
        :param max_grad_norm: that the gradient of V's own weights is clipped to
        """
        if self.optimizer is not None:  # the shared backward pass left its gradient
            th.nn.utils.clip_grad_norm_(parameters_of(self.optimizer), max_grad_norm)
            self.optimizer.step()
        critic, optimizer = self.view.critic_weights, self.optimizer or self.view.policy.optimizer
        for _ in range(self.n_steps - 1):
            values = self.view.predict_values(batch.observations, **batch.context)
            gradients = th.autograd.grad(vf_coef * F.mse_loss(batch.returns, values), critic)
            clear_gradients(optimizer)
            for parameter, gradient in zip(critic, gradients, strict=True):
                parameter.grad = gradient
            th.nn.utils.clip_grad_norm_(critic, max_grad_norm)
            optimizer.step()
