"""Masks in rl_zoo3's commands, which call ``predict(observation)`` and hand masks nowhere.

Whoever acts asks the environment that showed the observation: one seam for evaluation, tuning, ``enjoy`` and
``record``. Training needs none, since its rollouts ask the environment themselves.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

import sb3_relax
from sb3_relax.algorithm.masked import Masked
from sb3_relax.algorithm.masks import masks_of as masks_in
from sb3_relax.algorithm.masks import offers_masks
from sb3_relax.errors import UsageError


class ShowsMasks(VecEnvWrapper):
    """Remembers which observations it gave last, so that their masks can be asked for.

    To be put around all other wrappers: what one of them makes of an observation is another object.
    """

    def __init__(self, venv: VecEnv):
        super().__init__(venv)
        self.shown: VecEnvObs | None = None
        with LOCK:
            SHOWING.add(self)

    def reset(self) -> VecEnvObs:
        self.shown = self.venv.reset()
        return self.shown

    def step_wait(self) -> VecEnvStepReturn:
        result = self.venv.step_wait()
        self.shown = result[0]
        return result


#: all that there are
SHOWING: weakref.WeakSet[ShowsMasks] = weakref.WeakSet()
#: of SHOWING: the trials of a search with --n-jobs are threads
LOCK = threading.Lock()


def showing_masks(env: VecEnv) -> VecEnv:
    """The environment, with :class:`ShowsMasks` around it where it has masks."""
    return ShowsMasks(env) if offers_masks(env) else env


def masks_of(observation: Any) -> np.ndarray:
    """Which actions are allowed where an observation was made, ``[n_envs, n]``.

    :param observation: as an environment in :class:`ShowsMasks` gave it last, the very object
    :raises UsageError: where no environment with masks gave it
    """
    with LOCK:
        environments = list(SHOWING)
    for env in environments:
        if env.shown is observation:
            return masks_in(env, env.action_space)
    raise UsageError(
        "the agent acts under masks, and the environment has no method action_masks(): name the wrapper that has it as "
        "env_wrapper, such as sb3_contrib.common.wrappers.ActionMasker, or use --algo relaxa2c"
    )


class FindsMasks(Masked):
    """Finds the masks itself where ``predict`` is given none. To be put before a maskable algorithm among the bases."""

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As the algorithm's.

        :raises UsageError: without ``action_masks``, for an observation of an environment that has none
        """
        masks = masks_of(observation) if action_masks is None else action_masks
        return super().predict(observation, state, episode_start, deterministic, masks)


class MaskableRELAXA2C(FindsMasks, sb3_relax.MaskableRELAXA2C):
    """MaskableRELAXA2C in rl_zoo3's commands."""


class MaskableRecurrentRELAXA2C(FindsMasks, sb3_relax.MaskableRecurrentRELAXA2C):
    """MaskableRecurrentRELAXA2C in rl_zoo3's commands."""
