"""Whole-episode collection: the paper's discrete mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.policy_gradient.action_latents import executable
from sb3_relax.policy_gradient.evaluation_mode import set_training_mode
from sb3_relax.policy_gradient.observations import of_parts


def _of_env(obs: np.ndarray | dict[str, np.ndarray], index: int) -> Any:
    """One environment's observation, with a leading 1. Copied: a VecEnv may reuse its memory."""
    return of_parts(lambda part: part[index : index + 1].copy(), obs)


def collect_episodes(
    model: Any, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_episodes: int
) -> bool:
    """Fill the buffer with ``n_episodes`` whole episodes, one after the other, as if from one environment.

    Each environment owes a number of episodes fixed beforehand (as in SB3's ``evaluate_policy``): taking whichever
    episodes end first would favour short ones. An environment that has paid its due is stepped on with the others and
    its steps are counted but not used; all start afresh at the next rollout.

    :param model: an algorithm, whose ``n_episodes`` mode this is; its ``time_limits`` are noted
    :return: ``False`` where the callback stopped training
    :raises RuntimeError: where an episode outlasts ``model.max_episode_steps``
    """
    assert model._last_obs is not None, "No previous observation was provided"
    set_training_mode(model.policy, False)
    assert model._last_episode_starts is not None
    if not model._last_episode_starts.all():
        model._last_obs = env.reset()
        model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
    if model.use_sde:
        model.policy.reset_noise(env.num_envs)
    callback.on_rollout_start()

    due = np.array([(n_episodes + i) // env.num_envs for i in range(env.num_envs)])
    lengths = np.zeros(env.num_envs, dtype=int)
    transitions: list[list[tuple[Any, ...]]] = [[] for _ in range(env.num_envs)]
    cuts: list[list[tuple[int, float]]] = [[] for _ in range(env.num_envs)]
    n_steps = 0
    while due.any():
        if model.use_sde and model.sde_sample_freq > 0 and n_steps % model.sde_sample_freq == 0:
            model.policy.reset_noise(env.num_envs)
        with th.no_grad():
            (actions_tensor, values, log_probs), kept = model.act(env)
        actions = actions_tensor.cpu().numpy()
        clipped_actions = executable(model.policy, actions)

        new_obs, rewards, dones, infos = env.step(clipped_actions)
        model.num_timesteps += env.num_envs
        callback.update_locals(locals())
        if not callback.on_step():
            return False
        # rollout/ep_rew_mean is of the episodes that are used: those of environments that have paid are the short ones
        active = np.flatnonzero(due)
        model._update_info_buffer([infos[i] for i in active], dones[active])
        n_steps += 1
        lengths += 1

        for i in active:
            reward = rewards[i]
            truncated = bool(dones[i] and infos[i].get("TimeLimit.truncated", False))
            cuts[i] += [(len(transitions[i]), reward)] if truncated else []
            if truncated and model.bootstrap_truncated:
                terminal_obs = model.policy.obs_to_tensor(infos[i]["terminal_observation"])[0]
                with th.no_grad():
                    reward = reward + model.gamma * model.value_at_end(terminal_obs, int(i))
            transitions[i].append(
                (
                    _of_env(model._last_obs, int(i)),
                    actions[i : i + 1].copy(),
                    np.array([reward]),
                    model._last_episode_starts[i : i + 1].copy(),
                    values[i : i + 1],
                    log_probs[i : i + 1],
                    kept[i],
                )
            )
            if lengths[i] >= model.max_episode_steps and not dones[i]:
                raise RuntimeError(
                    f"environment {i} has not ended an episode within max_episode_steps={model.max_episode_steps} "
                    "steps. n_episodes needs environments that end: wrap yours in gymnasium.wrappers.TimeLimit, "
                    "raise max_episode_steps, or leave n_episodes=None to update every n_steps."
                )
        due -= dones & (due > 0)
        lengths[dones] = 0
        model._last_obs = new_obs
        model._last_episode_starts = dones

    # SB3's buffer is sized at construction; whole episodes need a size per rollout
    model.make_room(rollout_buffer, sum(map(len, transitions)))
    for transition in (step for of_env in transitions for step in of_env):
        rollout_buffer.add(*transition[:-1], **transition[-1])
    starts = np.cumsum([0, *map(len, transitions)])
    for start, of_env_cuts in zip(starts, cuts, strict=False):
        for step, reward in of_env_cuts:
            model.time_limits.note(int(start) + step, 0, float(reward))
    rollout_buffer.compute_returns_and_advantage(last_values=th.zeros(1), dones=np.array([True]))
    callback.update_locals(locals())
    callback.on_rollout_end()
    return True
