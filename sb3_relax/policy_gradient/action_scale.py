"""How widely a policy tries Box actions before it has learned: in the units of the Box."""

from __future__ import annotations

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_relax.policy_gradient.flat_actions import FlatActions


def half_widths(action_space: spaces.Space) -> np.ndarray:
    """(high − low) / 2 of every number of an action that is in a Box, ``[D]``; 1 of those without bounds.

    Without bounds is also what ends at the largest numbers of its type, or has but one value.

    :param action_space: a Box; of several parts, those that are Boxes; of all others there is none, ``[0]``
    """
    parts = list(action_space.parts.values()) if isinstance(action_space, FlatActions) else [action_space]
    boxes = [part for part in parts if isinstance(part, spaces.Box)]
    # halved first: bounds may be the largest numbers of float64
    widths = [np.ravel(box.high.astype(np.float64) / 2 - box.low.astype(np.float64) / 2) for box in boxes]
    joined = np.concatenate([np.empty(0), *widths])
    return np.where((joined > 0) & (joined < np.finfo(np.float32).max / 2), joined, 1.0)


def set_action_std(policy: ActorCriticPolicy, action_space: spaces.Space, share: float) -> None:
    """Make a share of half the Box's width the standard deviation of actions, where the policy has one to be set.

    :param policy: which may have a ``log_std``, ``[D]``, for all states
    :param action_space: its actions
    :param share: above 0
    """
    widths = half_widths(action_space)
    log_std = getattr(policy, "log_std", None)
    if isinstance(log_std, th.nn.Parameter) and log_std.shape == widths.shape:
        with th.no_grad():
            log_std.copy_(th.as_tensor(np.log(share * widths)))
