"""Environments by their ids: those of a user's own module, and those that need not be drawn."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.errors import unknown_name
from sb3_relax.optional import import_packages

#: how to find an environment's name, for the error where there is none
WHERE = (
    "All: python -c 'import gymnasium; gymnasium.pprint_registry()'. One of your own is known once the module that "
    "registers it is named: --env MODULE:{name}, or --gym-packages MODULE"
)


def make_undrawn_vec_env(
    env_id: str, n_envs: int, seed: int | None, wrapper_class: Any = None, max_episode_steps: int | None = None
) -> VecEnv:
    """SB3's ``make_vec_env`` without its ``render_mode="rgb_array"``.

    Given an id, SB3 sets it, with which LunarLander also simulates its engines' particles and is seven times slower;
    given a callable, it does not.

    :param env_id: of a registered environment
    :param wrapper_class: around SB3's Monitor, whose returns are then the environment's own
    :param max_episode_steps: after which an episode is truncated, inside the Monitor; by default as it is registered
    """
    make = partial(gym.make, env_id, max_episode_steps=max_episode_steps)
    return make_vec_env(make, n_envs=n_envs, seed=seed, wrapper_class=wrapper_class)


def id_alone(env_id: str) -> str:
    """``MyEnv-v0`` of ``mine:MyEnv-v0``, gymnasium's way to name the module that registers an environment."""
    return env_id.rpartition(":")[2]


def require_environment(env_id: str) -> None:
    """An environment is registered.

    :param env_id: without a module
    :raises UsageError: naming the nearest that is, and how to name the module of one's own
    """
    if env_id not in gym.registry:
        raise unknown_name("environment", env_id, gym.registry, WHERE.format(name=env_id))


def imported_id(env_id: str) -> str:
    """:func:`id_alone`, after the module was imported.

    :raises UsageError: where there is no such module
    """
    module, _, alone = env_id.rpartition(":")
    import_packages([module] if module else [], f"--env {env_id}")
    return alone
