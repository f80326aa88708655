"""The parts of an update that do not know each other: the rollout, the policy's view, V's fit, the step of θ."""

from sb3_relax.policy_gradient.critic import Critic
from sb3_relax.policy_gradient.flat_actions import FlatActions
from sb3_relax.policy_gradient.hybrid_distribution import HybridDistribution
from sb3_relax.policy_gradient.hyperparameters import DiscreteHyperparameters, Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView
from sb3_relax.policy_gradient.rollout import Batch, Rollout
from sb3_relax.policy_gradient.update_rules import UPDATE_RULES, NaturalGradient, PolicyOptimizerStep, UpdateRule

__all__ = [
    "UPDATE_RULES",
    "Batch",
    "Critic",
    "DiscreteHyperparameters",
    "FlatActions",
    "HybridDistribution",
    "Hyperparameters",
    "NaturalGradient",
    "PolicyOptimizerStep",
    "PolicyOutput",
    "PolicyView",
    "Rollout",
    "UpdateRule",
]
