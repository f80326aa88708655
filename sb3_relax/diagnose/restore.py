"""Environments that can be continued from the same state more than once: by copy, or by playing an episode again."""

from __future__ import annotations

import copy
import random
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

from sb3_relax.environment_layers import all_layers, never_changes, vec_layers
from sb3_relax.errors import UsageError


def layers_of(env: VecEnv) -> list[Any]:
    """SB3's wrappers, the DummyVecEnv, gymnasium's wrappers and the environment itself, from the outside in.

    :raises UsageError: where there is not exactly one environment in this process
    """
    inside = vec_layers(env)[-1]
    if not isinstance(inside, DummyVecEnv) or env.num_envs != 1:
        raise UsageError(
            "a vectorised environment must be a DummyVecEnv of one environment (with any of SB3's wrappers around it), "
            f"as make_vec_env(env_id, n_envs=1) makes it; got {type(inside).__name__} of {env.num_envs}"
        )
    return all_layers(env)


class WithoutCopies(DummyVecEnv):
    """One environment as SB3 steps it, but for the deep copies of all that it returns.

    SB3 makes them for callers that keep what earlier steps returned. Of a cheap environment they are most of a step.
    """

    def step_wait(self) -> VecEnvStepReturn:
        observation, reward, terminated, truncated, info = self.envs[0].step(self.actions[0])
        done = terminated or truncated
        info["TimeLimit.truncated"] = truncated and not terminated
        if done:
            info["terminal_observation"] = observation
            observation, self.reset_infos[0] = self.envs[0].reset()
        self._save_obs(0, observation)
        self.buf_rews[0], self.buf_dones[0] = reward, done
        parts = OrderedDict((key, part.copy()) for key, part in self.buf_obs.items())
        return dict_to_obs(self.observation_space, parts), self.buf_rews.copy(), self.buf_dones.copy(), [info]


def _reseed(found: Iterable[Any], rng: np.random.Generator) -> None:
    """Give every stream of random numbers among ``found`` a new start."""
    for value in found:
        if isinstance(value, np.random.Generator):
            value.bit_generator.state = type(value.bit_generator)(int(rng.integers(2**32))).state
        elif isinstance(value, (np.random.RandomState, random.Random)):
            value.seed(int(rng.integers(2**32)))


def clone(env: VecEnv, rng: np.random.Generator | None = None) -> VecEnv:
    """A copy of one environment with all its wrappers, in the state it is in.

    ``copy.deepcopy`` alone would not do: gymnasium's EzPickle (MuJoCo, Box2D) makes a *new* environment of it. The
    attributes of every layer are copied here instead, MuJoCo's data included; specifications, unused spaces and
    MuJoCo's model, which never change, are shared.

    :param rng: gives the copy a future of its own, by restarting every NumPy or ``random`` stream found in it;
        ``None`` keeps the future of the original. Randomness from elsewhere is repeated
    :raises Exception: whatever copying an attribute raises; see :class:`EnvSource` for what to do then
    """
    layers = layers_of(env)
    kinds = [WithoutCopies if type(layer) is DummyVecEnv else type(layer) for layer in layers]
    shells = [object.__new__(kind) for kind in kinds]
    memo: dict[int, Any] = {id(layer): shell for layer, shell in zip(layers, shells, strict=True)}
    for layer in layers:
        for name, value in vars(layer).items():
            if never_changes(name, value) or type(value).__name__ == "MjModel":
                memo[id(value)] = value
            elif type(value).__name__ == "MjData":
                memo[id(value)] = copy.copy(value)
    for layer, shell in zip(layers, shells, strict=True):
        vars(shell).update(copy.deepcopy(vars(layer), memo))
    if rng is not None:
        _reseed(list(memo.values()), rng)
    return shells[0]


class Snapshot(ABC):
    """A state to continue from."""

    @abstractmethod
    def resume(self, rng: np.random.Generator) -> VecEnv:
        """An environment in this state, with a future of its own."""


class Copied(Snapshot):
    """A state kept as a copy of the environment."""

    def __init__(self, env: VecEnv):
        self.env = clone(env)

    def resume(self, rng: np.random.Generator) -> VecEnv:
        return clone(self.env, rng)


class Replayed(Snapshot):
    """A state kept as a seed and the actions that led to it."""

    def __init__(self, make: Callable[[], VecEnv], seed: int, actions: list[np.ndarray]):
        self.make = make
        self.seed = seed
        self.actions = list(actions)

    def resume(self, rng: np.random.Generator) -> VecEnv:
        env = self.make()
        env.seed(self.seed)
        env.reset()
        for action in self.actions:
            env.step(action)
        _reseed([value for layer in layers_of(env) for value in vars(layer).values()], rng)
        return env


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, dict):
        return all(_same(x[key], y[key]) for key in x)
    return np.array_equal(x, y)


def _trace(env: VecEnv, actions: list[np.ndarray]) -> list[Any]:
    return [value for action in actions for value in env.step(action)[:3]]


class EnvSource:
    """Where environments come from, and how (and whether) their states can be continued from more than once.

    ``restore`` is ``"copy"`` where a copy goes on exactly as its original does, ``"replay"`` where only a new
    environment with the same seed and actions does, ``None`` where neither holds. Both are tried, not assumed.

    :param env: an id, a function that makes an environment (gymnasium's, or a VecEnv of one), an environment, or a
        VecEnv of one; an environment given whole is copied and never stepped. VecNormalize's statistics are not updated
    :raises UsageError: for an environment given whole that cannot be copied, or a VecNormalize that is still learning
    """

    def __init__(self, env: str | Callable[[], gym.Env | VecEnv] | gym.Env | VecEnv):
        self._make: Callable[[], VecEnv] | None = None
        if isinstance(env, str):
            gym.spec(env)  # gymnasium's own error names the closest id
            self._make = lambda: _vectorised(gym.make(env))
        elif callable(env) and not isinstance(env, (gym.Env, VecEnv)):
            self._make = lambda: _vectorised(env())
        self._prototype = self._make() if self._make is not None else _vectorised(env)  # type: ignore[arg-type]
        layers_of(self._prototype)
        self.restore: str | None = "copy" if self._can_copy() else None
        if self._make is None and self.restore is None:
            raise UsageError(
                f"{self._prototype} cannot be copied in the middle of an episode; give its id, or a function that "
                "makes it, so that its states can be reached by playing episodes again"
            )
        if self.restore is None and self._can_replay():
            self.restore = "replay"

    @property
    def observation_space(self) -> gym.Space:
        return self._prototype.observation_space

    @property
    def action_space(self) -> gym.Space:
        return self._prototype.action_space

    def new(self, seed: int) -> VecEnv:
        """One environment, about to be reset with this seed."""
        if self.restore == "copy":
            env = clone(self._prototype)
        else:
            assert self._make is not None
            env = self._make()
        env.seed(seed)
        return env

    def snapshot(self, env: VecEnv, seed: int, actions: list[np.ndarray]) -> Snapshot:
        """The state ``env`` is in, which ``actions`` led to after a reset with ``seed``."""
        if self.restore == "copy":
            return Copied(env)
        assert self._make is not None
        return Replayed(self._make, seed, actions)

    def _actions(self, n: int) -> list[np.ndarray]:
        # drawn from a copy of the space: the environment's own stays as it is
        space = copy.deepcopy(self._prototype.action_space)
        space.seed(0)
        return [np.array([space.sample()]) for _ in range(n)]

    def _can_copy(self) -> bool:
        try:
            env = clone(self._prototype)
            env.seed(0)
            env.reset()
            _trace(env, self._actions(3))
            twin, later = clone(env), clone(env)
            # one after the other: were anything shared, the second or the third would go on otherwise
            traces = [_trace(each, self._actions(20)) for each in (twin, env, later)]
            return all(_same(x, y) and _same(y, z) for x, y, z in zip(*traces, strict=True))
        except Exception:  # whatever an unknown environment raises when it is copied, the answer is no
            return False

    def _can_replay(self) -> bool:
        traces = []
        for _ in range(2):
            env = self.new(0)
            traces.append([env.reset(), *_trace(env, self._actions(20))])
            env.close()
        return all(_same(x, y) for x, y in zip(*traces, strict=True))


def _vectorised(env: gym.Env | VecEnv) -> VecEnv:
    vec_env = BaseAlgorithm._wrap_env(env)  # as an algorithm wraps it: Monitor, DummyVecEnv, images transposed
    statistics = unwrap_vec_normalize(vec_env)
    if statistics is not None and statistics.training:
        raise UsageError("VecNormalize must not go on learning while its environment is measured: set training=False")
    return vec_env
