"""Independent streams of rollouts, each somewhere in its episodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.algorithm.a2c import ControlVariateA2C

#: Streams a jackknife leaves out in turn, where there are as many rollouts.
STREAMS = 20
#: Steps of an environment after which an episode is taken to be this long.
LONGEST = 1_000


def streams_of(n_rollouts: int, n_streams: int = STREAMS) -> np.ndarray:
    """Which stream each rollout belongs to, ``[n_rollouts]``: as even as can be, consecutive ones together."""
    return np.arange(n_rollouts) * min(n_streams, n_rollouts) // n_rollouts


def streams(model: ControlVariateA2C, env: VecEnv, n_streams: int, seed: int) -> Iterator[int]:
    """Give the environments a fresh seed for each stream, to be reset with, and say how far to step them first.

    A stream shares no episode with another. It begins after a number of steps that is uniform over the length of the
    longest episode seen in a first pass (at most ``LONGEST``), the same for all of a stream's environments. Every step
    of an episode is then as likely as in an endless run where episodes are equally long (time limits); where their
    lengths differ, nearly so; what lies beyond ``LONGEST`` steps is covered only by what the rollouts themselves reach.
    Whole episodes (``n_episodes``) begin at a reset anyway, and need no steps before.

    :return: steps to take before the first rollout of each stream
    """
    rng = np.random.default_rng(seed)
    longest = 1
    if model.n_episodes is None:
        env.seed(int(rng.integers(2**30)))
        longest = _longest_episode(model, env)
    for _ in range(n_streams):
        env.seed(int(rng.integers(2**30)))
        yield int(rng.integers(longest))


def restart(model: ControlVariateA2C, env: VecEnv) -> BaseCallback:
    """Reset the environments, and make the model collect from them."""
    model.n_envs = env.num_envs
    model.set_env(env)
    model.rollout_buffer.n_envs = env.num_envs
    # the part of _setup_learn that collecting needs; the rest makes a logger, and a directory for it, every time
    model.ep_info_buffer, model.ep_success_buffer = deque(maxlen=1), deque(maxlen=1)
    model._last_obs = env.reset()  # type: ignore[assignment]
    model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
    return model._init_callback(None)


def advance(model: ControlVariateA2C, env: VecEnv, callback: BaseCallback, n_steps: int) -> None:
    """Act for ``n_steps`` as in rollouts, and forget them."""
    for size in (*[model.n_steps] * (n_steps // model.n_steps), n_steps % model.n_steps):
        if size > 0:
            model.collect_rollouts(env, callback, model.rollout_buffer, size)


def _longest_episode(model: ControlVariateA2C, env: VecEnv) -> int:
    """Of those that every environment ends first and meanwhile; ``LONGEST`` where one does not end by then."""
    callback = restart(model, env)
    age, ended, longest = np.zeros(env.num_envs, dtype=int), np.zeros(env.num_envs, dtype=bool), 1
    for _ in range(0, LONGEST, model.n_steps):
        advance(model, env, callback, model.n_steps)
        for dones in (*model.rollout_buffer.episode_starts[1:].astype(bool), np.asarray(model._last_episode_starts)):
            age += 1
            longest = max(longest, *age[dones], 1)
            ended |= dones
            age[dones] = 0
        if ended.all():
            return min(longest, LONGEST)
    return LONGEST
