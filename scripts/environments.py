"""Environments of the learning runs that gymnasium does not have; importing this registers them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

VISIBLE = np.array([1, 0, 1, 0], np.float32)


def cartpole_without_velocities(**kwargs: object) -> gym.Env:
    """CartPole-v1 that shows positions alone: velocities, zeroed here, must be inferred from what was seen before."""
    env = gym.make("CartPole-v1", **kwargs)
    return gym.wrappers.TransformObservation(env, lambda obs: obs * VISIBLE, env.observation_space)


# the name that rl-zoo gives the same task
if "CartPoleNoVel-v1" not in gym.registry:
    gym.register("CartPoleNoVel-v1", entry_point=cartpole_without_velocities, reward_threshold=475)


class ScaledReward(gym.RewardWrapper):
    """Rewards times a constant."""

    def __init__(self, env: gym.Env, scale: float):
        super().__init__(env)
        self.scale = scale

    def reward(self, reward):
        return self.scale * float(reward)
