"""SB3's actor-critic policies for actions of several parts."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import Schedule

from sb3_relax.policy_gradient.flat_actions import FlatActions
from sb3_relax.policy_gradient.hybrid_distribution import HybridDistribution


class HybridActorCriticPolicy(ActorCriticPolicy):
    """SB3's ActorCriticPolicy with a distribution for every part of the action, and one network for all of them.

    Inside, actions are flat, ``[N, A]``, as the buffer holds them. :meth:`predict` gives them as the environment takes
    them. Subclass it as you would SB3's.
    """

    action_space: FlatActions

    def _build(self, lr_schedule: Schedule) -> None:
        self.action_dist = HybridDistribution(self.action_space)
        super()._build(lr_schedule)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, tuple[np.ndarray, ...] | None]:
        """As SB3's, but for the action: a dict or tuple, or for several observations a list of them."""
        actions, state = super().predict(observation, state, episode_start, deterministic)
        return self.action_space.unflatten(actions), state


class HybridActorCriticCnnPolicy(HybridActorCriticPolicy, ActorCriticCnnPolicy):
    """The same for images, as SB3's CnnPolicy."""


class HybridMultiInputActorCriticPolicy(HybridActorCriticPolicy, MultiInputActorCriticPolicy):
    """The same for Dict observations, as SB3's MultiInputPolicy."""
