"""Which actions are allowed: asked where an environment says it, and of the right size before anything is drawn."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_relax.algorithm.contrib import get_action_masks, is_masking_supported
from sb3_relax.errors import UsageError

#: the method that says which actions are allowed, as sb3-contrib names it
METHOD = "action_masks"


def offers_masks(env: gym.Env | VecEnv) -> bool:
    """Whether an environment, one of its wrappers or all environments inside it have a method ``action_masks()``."""
    return _layer_with_masks(env) is not None or is_masking_supported(env)


def masks_of(env: gym.Env | VecEnv, action_space: spaces.Space) -> np.ndarray:
    """Which actions are allowed now, ``[n_envs, n]``: the outermost wrapper with a method ``action_masks()`` says it.

    A VecEnv or its wrapper gives the masks of all its environments, ``[n_envs, n]``. An environment inside it, or its
    gymnasium wrapper, gives its own, ``[n]``.

    :param env: which :func:`offers_masks`
    :param action_space: of one environment
    :raises UsageError: for masks of another size, saying which is right
    """
    layer = _layer_with_masks(env)
    if layer is not None:
        return checked_masks(getattr(layer, METHOD)(), action_space, layer.num_envs)
    masks = env.env_method(METHOD) if isinstance(env, VecEnv) else [get_action_masks(env)]
    return checked_masks(masks, action_space, len(masks))


def checked_masks(masks: Any, action_space: spaces.Space, count: int, real: Any = None) -> np.ndarray:
    """Masks as booleans, ``[count, n]``: n is the number of actions, of all variables' values, or twice that of bits.

    :param masks: an array, a tensor or lists, ``[count, n]``; ``[n]`` will do where there is one
    :param count: how many there must be
    :param real: numbers or booleans, ``[count]``: 0 where a step only pads a sequence. Its mask, which may be zeros,
        becomes one that allows all. ``None``: all steps are real
    :raises UsageError: for masks of another size, saying which is right, and for one that allows no action at all
    """
    values, entries = _entries(action_space)
    size = sum(values)
    try:
        array = _booleans(masks)
    except ValueError:  # their sizes differ
        array = np.empty(0, dtype=bool)
    if array.size != count * size or (count > 1 and len(array) != count):
        each = "" if count == 1 else f" in each of {count} masks"
        right = f"{size} entries{each} with {action_space} ({entries})"
        raise UsageError(f"action_masks must have {right}; got {_shape(masks)}")
    array = array.reshape(count, size)
    if real is not None:
        array = array | ~_booleans(real).reshape(count, 1)
    # of every variable, whether any of its values is allowed
    if isinstance(action_space, spaces.MultiBinary):
        # whether each may be 0 or may be 1: quicker than to reduce, and of hundreds of bits this is asked at every step
        allowed = array[:, ::2] | array[:, 1::2]
    else:
        allowed = np.logical_or.reduceat(array, np.cumsum([0, *values[:-1]]), axis=1)
    if not allowed.all():
        mask, variable = np.argwhere(~allowed)[0].tolist()
        which = "" if len(values) == 1 else f" of variable {variable}"
        raise UsageError(
            f"action_masks must allow something at every step; mask {mask} of {count} allows no value{which} of "
            f"{action_space}"
        )
    return array


def _booleans(values: Any) -> np.ndarray:
    """Of an array, a tensor on any device, or lists, which must not be ragged."""
    return np.asarray(values.cpu() if isinstance(values, th.Tensor) else values, dtype=bool)


def _shape(masks: Any) -> str:
    """Of an array, or of each part where they differ."""
    try:
        return f"shape {tuple(np.shape(masks))}"
    except ValueError:
        return f"[{', '.join(map(_shape, masks))}]"


def _entries(action_space: spaces.Space) -> tuple[list[int], str]:
    """How many entries of a mask each variable has, and what they are."""
    if isinstance(action_space, spaces.Discrete):
        return [int(action_space.n)], "one for each action"
    if isinstance(action_space, spaces.MultiDiscrete):
        sizes = action_space.nvec.flatten().tolist()
        return sizes, f"one for each value of each variable: {' + '.join(map(str, sizes))}"
    return [2] * get_action_dim(action_space), "two for each bit: whether it may be 0, and whether it may be 1"


def _layer_with_masks(env: gym.Env | VecEnv) -> VecEnv | None:
    """The outermost VecEnv with the method; ``None`` where only what is inside of it may have one."""
    layer: Any = env
    while isinstance(layer, VecEnv):
        # not by hasattr(): SB3's wrappers pass on what those below them have, and refuse where two have it
        if callable(vars(layer).get(METHOD, getattr(type(layer), METHOD, None))):
            return layer
        layer = layer.venv if isinstance(layer, VecEnvWrapper) else None
    return None
