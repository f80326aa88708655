"""What action masks add: sb3-contrib's maskable buffers, collection and policies."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.algorithm.contrib import (
    MaskableActorCriticPolicy,
    MaskableDictRolloutBuffer,
    MaskablePPO,
    MaskableRolloutBuffer,
    get_action_masks,
    is_masking_supported,
)
from sb3_relax.catalogue import MASKABLE
from sb3_relax.errors import UsageError

SelfMasked = TypeVar("SelfMasked", bound="Masked")


class Masked(ControlVariateA2C):
    """Rollouts that ask the environment which actions are allowed, as sb3-contrib's MaskablePPO has them.

    To be put before an algorithm for discrete actions among a class's bases.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = MaskablePPO.policy_aliases
    policy_base = MASKABLE

    policy: MaskableActorCriticPolicy  # type: ignore[assignment]

    #: whether rollouts ask the environment for masks: ``learn()``'s argument
    _use_masking: bool = True

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None:
            has_parts = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = MaskableDictRolloutBuffer if has_parts else MaskableRolloutBuffer
        policy_class: Any = self.policy_class

        def without_sde(*args: Any, use_sde: bool, **kwargs: Any) -> MaskableActorCriticPolicy:
            return policy_class(*args, **kwargs)

        # SB3 hands every on-policy policy use_sde, which a maskable one does not know
        self.policy_class = without_sde  # type: ignore[assignment]
        try:
            super()._setup_model()
        finally:
            self.policy_class = policy_class

    def acting_context(self, env: VecEnv) -> dict[str, Any]:
        return {"action_masks": get_action_masks(env)} if self._use_masking else {}

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        if self._use_masking and not is_masking_supported(env):
            raise UsageError(
                "the environment has no method action_masks(): wrap it in sb3_contrib.common.wrappers.ActionMasker, or "
                "learn(use_masking=False)"
            )
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def collect_steps(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        # sb3-contrib's own collection, which needs nothing of MaskablePPO but what every on-policy algorithm has
        collect: Any = MaskablePPO.collect_rollouts
        return collect(self, env, callback, rollout_buffer, n_rollout_steps, use_masking=self._use_masking)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As MaskablePPO's.

        :param action_masks: which actions are allowed, ``[n]`` or ``[n_envs, n]``: the classes of all variables one
            after the other (two a bit); ``None`` allows all
        """
        return self.policy.predict(observation, state, episode_start, deterministic, action_masks=action_masks)

    def learn(  # type: ignore[override]
        self: SelfMasked,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        use_masking: bool = True,
        progress_bar: bool = False,
    ) -> SelfMasked:
        """As A2C's, in MaskablePPO's order.

        :param use_masking: whether to ask the environment for masks
        """
        self._use_masking = use_masking
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
