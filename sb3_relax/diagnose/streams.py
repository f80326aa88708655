"""Independent streams of rollouts, each somewhere in its episodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.policy_gradient.action_latents import executable
from sb3_relax.policy_gradient.evaluation_mode import set_training_mode
from sb3_relax.policy_gradient.quick_forward import quick_passes
from sb3_relax.policy_gradient.unchecked_distributions import unchecked_distributions

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


def advance(model: ControlVariateA2C, env: VecEnv, callback: BaseCallback, n_steps: int) -> np.ndarray:
    """Act for ``n_steps`` as in rollouts, with the same random numbers, and forget them.

    :return: where episodes ended, ``[n_steps, E]``
    """
    if not model.use_sde:
        return _acted(model, env, n_steps)
    # gSDE's noise is drawn as rollouts begin, and on the way
    ended = [np.zeros((0, env.num_envs), dtype=bool)]
    for size in (*[model.n_steps] * (n_steps // model.n_steps), n_steps % model.n_steps):
        if size > 0:
            model.collect_rollouts(env, callback, model.rollout_buffer, size)
            ended += [model.rollout_buffer.episode_starts[1:size] > 0, np.array([model._last_episode_starts])]
    return np.concatenate(ended)


@th.no_grad()
def _acted(model: ControlVariateA2C, env: VecEnv, n_steps: int) -> np.ndarray:
    """:func:`advance` without all that a rollout is made of besides: V, the buffer, advantages."""
    set_training_mode(model.policy, False)
    ended = np.zeros((n_steps, env.num_envs), dtype=bool)
    with unchecked_distributions():
        act = quick_passes(model.policy).act
        for step in range(n_steps):
            actions = act(obs_as_tensor(model._last_obs, model.device)).cpu().numpy()  # type: ignore[arg-type]
            model._last_obs, _, ended[step], _ = env.step(executable(model.policy, actions))  # type: ignore[assignment]
            model._last_episode_starts = ended[step]
    return ended


def _longest_episode(model: ControlVariateA2C, env: VecEnv) -> int:
    """Of those that every environment ends first and meanwhile; ``LONGEST`` where one does not end by then."""
    callback = restart(model, env)
    age, ended, longest = np.zeros(env.num_envs, dtype=int), np.zeros(env.num_envs, dtype=bool), 1
    for _ in range(0, LONGEST, model.n_steps):
        for dones in advance(model, env, callback, model.n_steps):
            age += 1
            longest = max(longest, *age[dones], 1)
            ended |= dones
            age[dones] = 0
        if ended.all():
            return min(longest, LONGEST)
    return LONGEST
