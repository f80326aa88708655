"""Several environments of an :class:`EnvSource` as one vectorised environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


def stack(observations: Sequence[Any]) -> Any:
    """Observations with a leading 1 each → one batch (dicts key by key)."""
    if isinstance(observations[0], dict):
        return {key: np.concatenate([o[key] for o in observations]) for key in observations[0]}
    return np.concatenate(observations)


class Parallel(VecEnv):
    """Vectorised environments of one, each with its wrappers, side by side.

    :param envs: all of the same spaces
    """

    def __init__(self, envs: Sequence[VecEnv]):
        self.envs = list(envs)
        super().__init__(len(envs), envs[0].observation_space, envs[0].action_space)

    def reset(self) -> VecEnvObs:
        return stack([env.reset() for env in self.envs])

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Each environment's own, from ``seed`` on, for the next reset."""
        return [env.seed(None if seed is None else seed + i)[0] for i, env in enumerate(self.envs)]

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        steps = [env.step(self._actions[i : i + 1]) for i, env in enumerate(self.envs)]
        observations, rewards, dones, infos = zip(*steps, strict=True)
        return stack(observations), np.concatenate(rewards), np.concatenate(dones), [info[0] for info in infos]

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [self.envs[i].get_attr(attr_name)[0] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        for i in self._get_indices(indices):
            self.envs[i].set_attr(attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        return [
            self.envs[i].env_method(method_name, *method_args, **method_kwargs)[0] for i in self._get_indices(indices)
        ]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        return [self.envs[i].env_is_wrapped(wrapper_class)[0] for i in self._get_indices(indices)]
