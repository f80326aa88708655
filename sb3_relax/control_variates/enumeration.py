"""Which actions are few enough to be visited one and all."""

from __future__ import annotations

from sb3_relax.policy_gradient.hyperparameters import joint_actions
from sb3_relax.policy_gradient.policy_view import PolicyView

#: a sum over more joint actions takes longer at every step than the noise of relaxed or sampled ones is worth
MOST_VISITED = 64


def has_few_actions(view: PolicyView) -> bool:
    """Whether a sum over all joint actions is cheap: at most :data:`MOST_VISITED` of them."""
    return joint_actions(view.policy.action_space) <= MOST_VISITED
