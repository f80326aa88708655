"""How an estimate of the policy gradient becomes a step of the policy's weights: one rule a file, and a contract."""

from sb3_relax.policy_gradient.update_rules.base import UpdateRule
from sb3_relax.policy_gradient.update_rules.natural_gradient import NaturalGradient
from sb3_relax.policy_gradient.update_rules.optimizer_step import PolicyOptimizerStep
from sb3_relax.policy_gradient.update_rules.registry import UPDATE_RULES, make_update_rule

__all__ = ["UPDATE_RULES", "NaturalGradient", "PolicyOptimizerStep", "UpdateRule", "make_update_rule"]
