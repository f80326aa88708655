"""Natural gradients: the step that improves the objective most at a given KL divergence from the policy that acted."""

from sb3_relax.policy_gradient.update_rules.natural_gradient.rule import NaturalGradient

__all__ = ["NaturalGradient"]
