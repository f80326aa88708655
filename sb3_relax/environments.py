"""Environments that need not be drawn."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv


def make_undrawn_vec_env(env_id: str, n_envs: int, seed: int | None, wrapper_class: Any = None) -> VecEnv:
    """SB3's ``make_vec_env`` without its ``render_mode="rgb_array"``.

    Given an id, SB3 sets it, with which LunarLander also simulates its engines' particles and is seven times slower;
    given a callable, it does not.

    :param env_id: of a registered environment
    :param wrapper_class: around SB3's Monitor, whose returns are then the environment's own
    """
    return make_vec_env(partial(gym.make, env_id), n_envs=n_envs, seed=seed, wrapper_class=wrapper_class)
