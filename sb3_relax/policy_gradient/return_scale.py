"""Returns in their running scale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.running_scale import RunningScale


class ReturnScale(RunningScale):
    """The size σ of recent returns, and V's last layer in units of it.

    V(s) = wᵀh(s) + b is in the environment's units, whoever reads it. Adam's and RMSprop's steps have a size of their
    own: they would need many to bring w and b to returns in the hundreds, and would jump about where returns are small.
    So they step w' = w/σ and b' = b/σ. Predictions are preserved when σ changes, since w and b stay as they are.

    This is PopArt (van Hasselt et al. 2016, https://arxiv.org/abs/1602.07714) but for two things. Its shift by the mean
    is left out: where b counts from makes no difference to a step. And σ² is the mean of (R - V̄)² with V̄ the mean of V,
    in the place of the returns' own mean: the same once V is right on average, and larger while V has far to go.

    :param policy: whose ``value_net`` is the last layer
    :param decay: weight of the past in σ²
    :raises UsageError: where that is no linear layer
    """

    def __init__(self, policy: ActorCriticPolicy, decay: float = 0.95):
        super().__init__(decay)
        if not isinstance(getattr(policy, "value_net", None), nn.Linear):
            raise UsageError(
                "normalize_returns needs a policy whose value_net is a torch.nn.Linear; "
                f"{type(policy).__name__} has none"
            )
        self.policy = [policy]  # in a list, since it is no part of this module

    def observe(self, returns: th.Tensor, values: th.Tensor) -> None:
        """Take in the returns of a batch, ``[N]``, and V as it is, ``[N]``."""
        self.take_in((returns - values.detach().mean()).square().mean())

    @contextmanager
    def applied_to_last_layer(self) -> Iterator[None]:
        """V's last layer and its gradient as w' and b' have them, for a step of an optimizer."""
        scale = self.value
        weights: list[th.Tensor] = [*self.policy[0].value_net.parameters()]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        with th.no_grad():
            th._foreach_div_(weights, scale)
            if gradients:
                th._foreach_mul_(gradients, scale)
        try:
            yield
        finally:
            with th.no_grad():
                th._foreach_mul_(weights, scale)
