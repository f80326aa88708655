"""Every update rule by name, for constructors, tests and command lines."""

from __future__ import annotations

from collections.abc import Callable

import torch as th

from sb3_relax.errors import unknown_name
from sb3_relax.policy_gradient.policy_view import PolicyView
from sb3_relax.policy_gradient.update_rules.base import UpdateRule
from sb3_relax.policy_gradient.update_rules.optimizer_step import PolicyOptimizerStep

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
