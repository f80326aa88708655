"""Collecting a rollout: as SB3 does or whole episodes, with what its buffers do not keep, and nothing broken let in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.algorithm.continuation import RolloutStart
from sb3_relax.algorithm.finite import explain, require_finite_advantages
from sb3_relax.algorithm.random_streams import torch_streams
from sb3_relax.algorithm.whole_episodes import collect_episodes
from sb3_relax.errors import require_finite
from sb3_relax.policy_gradient.action_latents import executable
from sb3_relax.policy_gradient.evaluation_mode import set_training_mode
from sb3_relax.policy_gradient.quick_forward import quick_passes
from sb3_relax.policy_gradient.rollout import TimeLimits
from sb3_relax.policy_gradient.unchecked_distributions import unchecked_distributions


class Collection(OnPolicyAlgorithm):
    """The part of an algorithm that fills the rollout buffer, and notes where time limits cut episodes.

    Subclasses say how one rollout is collected (:meth:`collect_steps`) and what the policy needs to act beside
    observations (:meth:`acting_context`). How whole episodes are collected is
    :func:`~sb3_relax.algorithm.whole_episodes.collect_episodes`; of policies that are called in another way than SB3's,
    subclasses say how they act in them (:meth:`act`, :meth:`value_at_end`, :meth:`make_room`).
    """

    n_episodes: int | None
    bootstrap_truncated: bool
    max_episode_steps: int
    #: of the last rollout
    time_limits: TimeLimits | None = None
    #: where the rollout began that is being collected; ``None`` between rollouts
    rollout_start: RolloutStart | None = None

    def acting_context(self, env: VecEnv) -> dict[str, Any]:
        """For ``policy.forward()``, one entry per environment in each; stored in the rollout by the same names."""
        return {}

    def act(self, env: VecEnv) -> tuple[tuple[th.Tensor, th.Tensor, th.Tensor], list[dict[str, Any]]]:
        """One step of the policy in all environments.

        :return: actions, V(s) and log π(a|s); and for each environment what the rollout keeps beside them, by the names
            of the buffer's ``add()``
        """
        context = self.acting_context(env)
        acted = self.policy(obs_as_tensor(self._last_obs, self.device), **context)  # type: ignore[arg-type]
        return acted, of_each(context, env.num_envs)

    def value_at_end(self, observation: PyTorchObs, env_index: int) -> float:
        """V of the state in which a time limit cut the episode of one environment, after :meth:`act`."""
        return self.policy.predict_values(observation).item()

    def make_room(self, rollout_buffer: RolloutBuffer, n_steps: int) -> None:
        """Empty the buffer, for so many steps one after the other, as if from one environment."""
        rollout_buffer.buffer_size = n_steps
        rollout_buffer.n_envs = 1
        rollout_buffer.reset()

    def collect_steps(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """``n_rollout_steps`` of every environment: what SB3's ``collect_rollouts()`` gives, to the last bit.

        Callbacks find the same names among their locals, and what the policy acted on beside observations. Time limits
        are noted, and the policy acts by :func:`~sb3_relax.policy_gradient.quick_forward.quick_passes`.

        :return: ``False`` where the callback stopped training
        """
        assert self._last_obs is not None, "No previous observation was provided"
        assert self.time_limits is not None
        set_training_mode(self.policy, False)
        rollout_buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        forward, predict_values, _ = quick_passes(self.policy)

        n_steps = 0
        while n_steps < n_rollout_steps:
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            with th.no_grad():
                obs_tensor = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
                context = self.acting_context(env)
                actions, values, log_probs = forward(obs_tensor, **context)
            actions = actions.cpu().numpy()  # type: ignore[assignment]
            clipped_actions = executable(self.policy, actions)  # type: ignore[arg-type]
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            self.num_timesteps += env.num_envs
            callback.update_locals({**locals(), **context})
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)

            for idx, done in enumerate(dones):
                if done and infos[idx].get("TimeLimit.truncated", False):
                    self.time_limits.note(n_steps, idx, float(rewards[idx]))
                    if infos[idx].get("terminal_observation") is not None:
                        terminal_obs = self.policy.obs_to_tensor(infos[idx]["terminal_observation"])[0]
                        with th.no_grad():
                            terminal_value = self.policy.predict_values(terminal_obs)[0]
                        rewards[idx] += self.gamma * terminal_value
            if isinstance(self.action_space, spaces.Discrete):
                actions = actions.reshape(-1, 1)
            rollout_buffer.add(
                self._last_obs,  # type: ignore[arg-type]
                actions,  # type: ignore[arg-type]
                rewards,
                self._last_episode_starts,  # type: ignore[arg-type]
                values,
                log_probs,
                **context,
            )
            self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]
            n_steps += 1

        with th.no_grad():
            values = predict_values(obs_as_tensor(new_obs, self.device))  # type: ignore[arg-type]
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals({**locals(), **context})
        callback.on_rollout_end()
        return True

    def after_rollout(self) -> tuple[Any, Any]:
        """What followed the last step of the rollout in each of its environments.

        :return: the observations, which nobody needs after whole episodes; and whether an episode had ended, ``[E]``
        """
        if self.n_episodes is not None:
            return None, np.ones(1, dtype=bool)
        return self._last_obs, self._last_episode_starts

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """A rollout as SB3 collects it (or whole episodes), refusing NaN and infinity before any weight changes.

        :raises UsageError: (a ``ValueError``) for an action, before it reaches the environment, and for a reward, an
            observation or a weight of the policy that is not finite, saying where it probably comes from
        """
        self.time_limits = TimeLimits()
        self.rollout_start = RolloutStart(self.num_timesteps, torch_streams(self.device) if self.use_sde else {})
        try:
            with unchecked_distributions():
                if self.n_episodes is None:
                    completed = self.collect_steps(env, callback, rollout_buffer, n_rollout_steps)
                else:
                    completed = collect_episodes(self, env, callback, rollout_buffer, self.n_episodes)
            if completed:
                require_finite("observations", rollout_buffer.observations)
                require_finite("observations", self._last_obs, steps=False)  # type: ignore[arg-type]
                require_finite("rewards", rollout_buffer.rewards)
                require_finite_advantages(rollout_buffer)
        except Exception as error:
            # a NaN makes torch or the environment fail in ways that do not say where it came from
            explain(self, env, error, self._n_updates)
            raise
        finally:
            self.rollout_start = None
        return completed


def of_each(context: dict[str, Any], n_envs: int) -> list[dict[str, Any]]:
    """What a policy acted on, of each environment alone."""
    return [{name: of_all[i : i + 1] for name, of_all in context.items()} for i in range(n_envs)]


class PassedOn(BaseCallback):
    """A callback that passes everything on to another: what is to see a rollout on the way derives from it.

    :param callback: which is passed everything
    """

    def __init__(self, callback: BaseCallback):
        super().__init__()
        self.callback = callback

    def on_rollout_start(self) -> None:
        self.callback.on_rollout_start()

    def on_rollout_end(self) -> None:
        self.callback.on_rollout_end()

    def update_locals(self, locals_: dict[str, Any]) -> None:
        self.locals = locals_
        self.callback.update_locals(locals_)

    def on_step(self) -> bool:
        return self.callback.on_step()

    def _on_step(self) -> bool:
        return True


class NotesTimeLimits(PassedOn):
    """The user's callback, and on the way a note of every time limit, in a rollout that sb3-contrib's code collects.

    That code adds γV to the reward there, and forgets it.

    :param time_limits: where the notes go
    """

    def __init__(self, callback: BaseCallback, time_limits: TimeLimits):
        super().__init__(callback)
        self.time_limits = time_limits
        self.step = 0

    def on_step(self) -> bool:
        # before anything is added to the rewards
        dones: np.ndarray = self.locals["dones"]
        if dones.any():
            for env in np.flatnonzero(dones):
                if self.locals["infos"][env].get("TimeLimit.truncated", False):
                    self.time_limits.note(self.step, int(env), float(self.locals["rewards"][env]))
        self.step += 1
        return super().on_step()
