"""Every update rule by name, for constructors, tests and command lines."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isclass
from typing import Any

import torch as th

from sb3_relax.errors import UsageError, unknown_name
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyView
from sb3_relax.policy_gradient.update_rules.base import UpdateRule
from sb3_relax.policy_gradient.update_rules.natural_gradient import NaturalGradient
from sb3_relax.policy_gradient.update_rules.optimizer_step import PolicyOptimizerStep

#: name → class. A new rule's one line: every shared test finds it here
UPDATE_RULES: dict[str, type[UpdateRule]] = {"optimizer": PolicyOptimizerStep, "kfac": NaturalGradient}


def make_update_rule(
    rule: str | Callable[[PolicyView, Hyperparameters], UpdateRule], view: PolicyView, hyperparameters: Hyperparameters
) -> UpdateRule:
    """The rule that an algorithm was given, on the policy's device.

    :param rule: a name of :data:`UPDATE_RULES`, or what makes one, such as a class
    :raises UsageError: for an unknown name, or an optimizer of torch's, which ``policy_kwargs`` choose
    :raises TypeError: for something that makes no ``UpdateRule``
    """
    if isinstance(rule, str):
        if rule not in UPDATE_RULES:
            raise unknown_name("update_rule", rule, UPDATE_RULES)
        rule = UPDATE_RULES[rule]
    if isclass(rule) and issubclass(rule, th.optim.Optimizer):
        raise UsageError(
            f"update_rule={rule.__name__}: torch's optimizers are chosen by "
            f"policy_kwargs=dict(optimizer_class=torch.optim.{rule.__name__}), with the rule 'optimizer'"
        )
    wanted = (
        "update_rule must be a name, or a function of (view, hyperparameters) that makes an UpdateRule, such as its "
        "class"
    )
    if isinstance(rule, th.nn.Module) or not callable(rule):
        raise TypeError(f"{wanted}; got {rule!r}")
    maker: Any = rule
    made = maker(view, hyperparameters)
    if not isinstance(made, UpdateRule):
        raise TypeError(f"{wanted}; it made a {type(made).__name__}")
    return made.to(view.device)
