"""How an estimate of the policy gradient becomes a step of the policy's weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch as th
from torch import nn

from sb3_relax.errors import unknown_name
from sb3_relax.estimators import Estimate
from sb3_relax.policy_gradient.gradients import clear_gradients, parameters_of
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView
from sb3_relax.policy_gradient.rollout import Batch, Rollout


class UpdateRule(nn.Module, ABC):
    """One step of the policy's weights per batch. Override :meth:`step`; never ``train()``.

    Buffers registered here are saved with the agent. The estimate is fixed when the rule gets it: a rule may scale,
    precondition or clip it as a whole, as every optimizer does, but must not look at its samples one by one.

    :param view: of the policy
    :param optimizer: the policy's own, which SB3 makes, whose rate follows ``learning_rate``, and which is saved

    Example::

        class PlainStep(UpdateRule):
            def step(self, output, estimate, loss, divisor, max_grad_norm):
                norm = self.backward(estimate, loss, divisor, max_grad_norm)
                ...
                return norm

        RELAXA2C("MlpPolicy", "CartPole-v1", update_rule=PlainStep)
    """

    def __init__(self, view: PolicyView, optimizer: th.optim.Optimizer):
        super().__init__()
        self.view = view
        self.optimizer = optimizer

    def batches(self, rollout: Rollout) -> Iterator[Batch]:
        """What is stepped on, one after the other: the whole rollout once, as A2C does."""
        return rollout.batches(self.view.dtype)

    @abstractmethod
    def step(
        self, output: PolicyOutput, estimate: Estimate, loss: th.Tensor, divisor: float, max_grad_norm: float
    ) -> float:
        """Move the policy's weights along the estimate, and down the loss.

        :param output: the pass of the policy that ``estimate`` and ``loss`` were made of
        :param estimate: ĝ per step at the distribution's parameters, for ascent
        :param loss: of V and of the entropy, for descent
        :param divisor: of the sum of ĝ over the batch
        :param max_grad_norm: that the gradient is clipped to
        :return: the norm of the gradient before clipping, which is logged
        """

    def backward(self, estimate: Estimate, loss: th.Tensor, divisor: float, max_grad_norm: float) -> float:
        """Clipped gradients of ``loss`` minus the policy's part into the weights' ``grad``; the norm before clipping.

        One backward pass serves both, so that weights which both reach are reached as in A2C, to the last bit.
        """
        clear_gradients(self.optimizer)
        roots = estimate.theta_root(-1 / divisor)
        th.autograd.backward([loss, *(root for root, _ in roots)], [None, *(vector for _, vector in roots)])
        return th.nn.utils.clip_grad_norm_(parameters_of(self.optimizer), max_grad_norm).item()


class PolicyOptimizerStep(UpdateRule):
    """A2C's rule: a step of the policy's optimizer, RMSprop unless ``policy_kwargs`` or ``use_rms_prop`` say else."""

    def step(
        self, output: PolicyOutput, estimate: Estimate, loss: th.Tensor, divisor: float, max_grad_norm: float
    ) -> float:
        norm = self.backward(estimate, loss, divisor, max_grad_norm)
        self.optimizer.step()
        return norm


#: name → class. A new rule's one line: every shared test finds it here
UPDATE_RULES: dict[str, type[UpdateRule]] = {"optimizer": PolicyOptimizerStep}


def make_update_rule(
    rule: str | Callable[[PolicyView, th.optim.Optimizer], UpdateRule],
    view: PolicyView,
    optimizer: th.optim.Optimizer,
) -> UpdateRule:
    """The rule that an algorithm was given.

    :param rule: a name of :data:`UPDATE_RULES`, or what makes one, such as a class
    :raises UsageError: for an unknown name
    :raises TypeError: for something that makes no ``UpdateRule``
    """
    if isinstance(rule, str):
        if rule not in UPDATE_RULES:
            raise unknown_name("update_rule", rule, UPDATE_RULES)
        rule = UPDATE_RULES[rule]
    made = rule(view, optimizer) if callable(rule) else rule
    if not isinstance(made, UpdateRule):
        raise TypeError(
            "update_rule must be a name, or a function of (view, optimizer) that makes an UpdateRule; "
            f"it made a {type(made).__name__}"
        )
    return made
