"""V's fit to the returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.utils import update_learning_rate
from torch import nn
from torch.nn import functional as F

from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.clipping import LARGE, clip
from sb3_relax.policy_gradient.critic_replay import CriticReplay, EarlierRollout
from sb3_relax.policy_gradient.gradients import clear_gradients, give_gradients, parameters_of
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView
from sb3_relax.policy_gradient.quick_step import take_step
from sb3_relax.policy_gradient.return_scale import ReturnScale
from sb3_relax.policy_gradient.rollout import Batch, Rollout


class Critic(nn.Module):
    """V by squared error: A2C's joint step, and further steps of the weights that V alone depends on.

    Those weights are stepped by the policy's optimizer or, at a rate of their own, by a second one of its kind. Weights
    that the action distribution depends on too stay with the policy's.

    With ``normalize_returns`` the error is measured in the returns' running scale, and V's last layer is stepped in it
    (:class:`~sb3_relax.policy_gradient.return_scale.ReturnScale`). With ``critic_replay`` the further steps see earlier
    rollouts too (:class:`~sb3_relax.policy_gradient.critic_replay.CriticReplay`).

    :param view: of the policy, whose value head V is
    :param hyperparameters: ``n_critic_steps``, ``critic_learning_rate``, ``critic_batch_size``, ``critic_replay``,
        ``critic_lambda``, ``normalize_returns``
    :raises UsageError: where V has a rate of its own, and no weight is V's alone; or where returns are normalised, and
        V has no last layer that is linear
    """

    def __init__(self, view: PolicyView, hyperparameters: Hyperparameters):
        super().__init__()
        self.view = view
        self.n_steps = hyperparameters.n_critic_steps
        self.batch_size = hyperparameters.critic_batch_size
        earlier = hyperparameters.critic_replay - 1
        self.replay = CriticReplay(view, earlier, hyperparameters.critic_lambda) if earlier else None
        self.scale = ReturnScale(view.policy) if hyperparameters.normalize_returns else None
        self.optimizer = None if hyperparameters.critic_learning_rate is None else self._take_weights()

    def _take_weights(self) -> th.optim.Optimizer:
        """An optimizer for what V alone depends on, which the policy's optimizer gives up."""
        policy = self.view.policy
        own = self.view.critic_weights
        owned = set(own)  # by identity, as torch compares parameters there
        if not own:
            raise UsageError("critic_learning_rate needs weights that V alone depends on; this policy shares them all")
        make: Any = policy.optimizer_class

        def groups_of(wanted: bool) -> list[dict[str, Any]]:
            # a group holds every setting
            groups = [
                {**group, "params": [p for p in group["params"] if (p in owned) == wanted]}
                for group in policy.optimizer.param_groups
            ]
            return [group for group in groups if group["params"]]

        # a policy that an agent had before has given its weights up already
        of_critic = groups_of(True) or [{**policy.optimizer.param_groups[0], "params": own}]
        # the default rate is the one that training began with
        settings = policy.optimizer.defaults
        policy.optimizer = make(groups_of(False), **settings)
        if make is th.optim.Adam:  # one kernel for all weights
            of_critic = [{**group, "fused": True, "foreach": False} for group in of_critic]
        return make(of_critic, **settings)

    def set_learning_rate(self, rate: float) -> None:
        """Of V's own weights, where it is not the policy's."""
        if self.optimizer is not None:
            update_learning_rate(self.optimizer, rate)

    def loss(self, values: th.Tensor, returns: th.Tensor) -> th.Tensor:
        """Mean squared error of V, in the returns' running scale where there is one.

        :param values: V(s), ``[N]``
        :param returns: its target, ``[N]``
        """
        error = F.mse_loss(returns, values)
        return error if self.scale is None else error / self.scale.value**2

    def joint_loss(self, output: PolicyOutput, batch: Batch) -> th.Tensor:
        """:meth:`loss` for the backward pass that policy and V share.

        :raises UsageError: where further steps are asked for, and no weight is V's alone
        """
        if self.n_steps > 1 and not self.view.critic_weights:
            raise UsageError("n_critic_steps > 1 needs weights that V alone depends on; this policy shares them all")
        if self.optimizer is not None:
            clear_gradients(self.optimizer)
        if self.scale is not None:
            # the advantages of this batch have been taken from V, so that V may know its returns
            self.scale.observe(batch.returns, output.values)
        return self.loss(output.values, batch.returns)

    def fit(
        self, batch: Batch, rollout: Rollout, vf_coef: float, max_grad_norm: float, generator: th.Generator
    ) -> None:
        """The steps that V takes alone. Optimizers skip what has no gradient, so the policy's moments stay untouched.

        :param batch: all steps of the rollout
        :param vf_coef: of the loss, as in the joint step
        :param max_grad_norm: that the gradient of V's own weights is clipped to
        :param generator: of the order of minibatches
        """
        if self.optimizer is not None:  # the shared backward pass left its gradient
            self._step(self.optimizer, parameters_of(self.optimizer), batch.returns, max_grad_norm)
        critic, optimizer = self.view.critic_weights, self.optimizer or self.view.policy.optimizer
        if self.n_steps == 1:
            return
        seen = batch if self.replay is None else self.replay.joined_by(batch, rollout)
        values_at = self.view.values_while_fitted(seen.observations, **seen.context)
        parts = self._parts(len(seen.returns), generator)
        for _ in range(self.n_steps - 1):
            steps = next(parts)
            returns = seen.returns if steps is None else seen.returns[steps]
            gradients = th.autograd.grad(vf_coef * self.loss(values_at(steps), returns), critic)
            clear_gradients(optimizer)
            give_gradients(critic, gradients)
            self._step(optimizer, critic, returns, max_grad_norm)

    def remember(self, batch: Batch, rollout: Rollout, last_obs: Any, dones: np.ndarray) -> None:
        """Keep a rollout for later updates where ``critic_replay`` asks for it, once V was fitted to it.

        :param batch: all of its steps
        :param rollout: that the batch is of
        :param last_obs: the environments' observations after it
        :param dones: whether an episode ended with its last step, ``[E]``
        """
        if self.replay is not None:
            self.replay.add(EarlierRollout.of(batch, rollout, last_obs, dones))

    def _step(
        self, optimizer: th.optim.Optimizer, weights: list[nn.Parameter], returns: th.Tensor, max_grad_norm: float
    ) -> None:
        """One step along the gradient that the weights have, of the error of the returns."""
        with nullcontext() if self.scale is None else self.scale.applied_to_last_layer():
            clip(self.view.policy, weights, max_grad_norm, lambda: returns.square().max().item() > LARGE)
            take_step(optimizer)

    def _parts(self, size: int, generator: th.Generator) -> Iterator[th.Tensor | None]:
        """``None`` again and again, for all steps, or the numbers of minibatches of them.

        Every step comes once before any comes a second time.
        """
        while True:
            if self.batch_size is None or self.batch_size >= size:
                yield None
                continue
            order = th.randperm(size, generator=generator, device=generator.device)
            for index in order.split(self.batch_size):
                if len(index) == self.batch_size:  # a last one that is smaller would weigh its steps more
                    yield index
