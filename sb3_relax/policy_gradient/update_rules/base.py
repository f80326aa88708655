"""The contract of an update rule."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch as th
from torch import nn

from sb3_relax.estimators import Estimate
from sb3_relax.policy_gradient.clipping import LARGE, clip
from sb3_relax.policy_gradient.gradients import clear_gradients, parameters_of
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView


class UpdateRule(nn.Module, ABC):
    """One step of the policy's weights per batch. Override :meth:`step`; never ``train()``.

    The size of a step is each parameter group's ``"lr"`` in ``optimizer``, which follows ``learning_rate``. Buffers
    registered in the constructor are saved with the agent. The estimate is fixed when the rule gets it: a rule may
    scale, precondition or clip it as a whole, as every optimizer does, but must not look at its samples one by one.

    Example::

        class PlainSGD(UpdateRule):
            def step(self, output, estimate, loss, divisor, max_grad_norm):
                norm = self.backward(estimate, loss, divisor, max_grad_norm)
                with torch.no_grad():
                    for group in self.optimizer.param_groups:
                        for weight in group["params"]:
                            if weight.grad is not None:
                                weight -= group["lr"] * weight.grad
                return norm

        RELAXA2C("MlpPolicy", "CartPole-v1", update_rule=PlainSGD)
    """

    #: whether :meth:`step` differentiates the policy twice, which cuDNN cannot do of an LSTM
    needs_second_derivative: bool = False
    #: what users should know of how it works on their policy: said in the log after the step, and then taken away
    note: str = ""

    def __init__(self, view: PolicyView, hyperparameters: Hyperparameters | None = None):
        """Of the two, the view alone is kept: a rule takes what else it needs.

        :param view: of the policy
        :param hyperparameters: of the algorithm
        """
        super().__init__()
        self.view = view

    @property
    def optimizer(self) -> th.optim.Optimizer:
        """The policy's own, which SB3 makes, and which is saved; the critic's further steps are its steps."""
        return self.view.policy.optimizer

    @abstractmethod
    def step(
        self, output: PolicyOutput, estimate: Estimate, loss: th.Tensor, divisor: float, max_grad_norm: float
    ) -> float:
        """Move the policy's weights along the estimate, and down the loss.

        The clipped gradient of both is left in the weights' ``grad``, where :meth:`backward` puts it.

        :param output: the pass of the policy that ``estimate`` and ``loss`` were made of
        :param estimate: ĝ per step at the distribution's parameters, for ascent
        :param loss: of V and of the entropy, for descent
        :param divisor: of the sum of ĝ over the batch
        :param max_grad_norm: that the gradient is clipped to
        :return: the norm of the gradient before clipping, which is logged
        """

    def measured(self) -> dict[str, float]:
        """What to log of the last step, by name."""
        return {}

    def backward(self, estimate: Estimate, loss: th.Tensor, divisor: float, max_grad_norm: float) -> float:
        """Clipped gradients of ``loss`` minus the policy's part into the weights' ``grad``; the norm before clipping.

        One backward pass serves both, so that weights which both reach are reached as in A2C.

        Where numbers are too large, zeros are left (:func:`~sb3_relax.policy_gradient.clipping.clip`).

        :raises UsageError: for a gradient that is not finite where nothing was too large, naming its weights
        """
        clear_gradients(self.optimizer)
        roots = estimate.theta_root(-1 / divisor)
        th.autograd.backward([loss, *(root for root, _ in roots)], [None, *(vector for _, vector in roots)])
        weights = parameters_of(self.optimizer)
        return clip(self.view.policy, weights, max_grad_norm, lambda: may_overflow(estimate, loss))


def may_overflow(estimate: Estimate, loss: th.Tensor) -> bool:
    """Whether what a backward pass starts from is so large that it may overflow on the way; NaN is not large.

    :param estimate: ĝ
    :param loss: of V and of the entropy
    """
    return loss.abs().item() > LARGE or estimate.grad.abs().max().item() > LARGE
