"""An environment that does nothing, so that what is measured is the algorithm."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

#: steps of an episode
LENGTH = 50


class Idle(gym.Env):
    """Gives the same observation at every step, and forbids one value of every discrete action's first variable.

    :param action_space: of any kind
    :param observation_space: of any kind; a vector of 8 numbers by default
    """

    def __init__(self, action_space: spaces.Space, observation_space: spaces.Space | None = None):
        self.action_space = action_space
        self.observation_space = observation_space or spaces.Box(-1.0, 1.0, (8,), np.float32)
        self.seen = self.observation_space.sample()
        values = 2 if isinstance(action_space, spaces.MultiBinary) else 1
        self.allowed = np.ones(values * spaces.flatdim(action_space), dtype=bool)
        self.allowed[0] = False
        self.t = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.seen, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.seen, float(self.t % 3), self.t >= LENGTH, False, {}

    def action_masks(self) -> np.ndarray:
        """Which values may be chosen."""
        return self.allowed


def idle(n_envs: int, action_space: spaces.Space, observation_space: spaces.Space | None = None) -> DummyVecEnv:
    """So many of them."""
    return DummyVecEnv([lambda: Idle(action_space, observation_space)] * n_envs)
