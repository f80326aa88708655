"""MaskableRELAXA2C: RELAXA2C with invalid action masking."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, RolloutBufferSamples
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.common.contrib import (
    MaskableActorCriticPolicy,
    MaskableDictRolloutBuffer,
    MaskablePPO,
    MaskableRolloutBuffer,
    get_action_masks,
    is_masking_supported,
)
from sb3_relax.common.errors import UsageError
from sb3_relax.relaxa2c.relaxa2c import RELAXA2C

SelfMaskableRELAXA2C = TypeVar("SelfMaskableRELAXA2C", bound="MaskableRELAXA2C")


class MaskableRELAXA2C(RELAXA2C):
    """RELAXA2C with invalid action masking (Huang & Ontañón, https://arxiv.org/abs/2006.14171), as MaskablePPO has it.

    For environments with a method ``action_masks()``, their own or that of sb3-contrib's ``ActionMasker``, and
    sb3-contrib's maskable policies. A mask is a property of the state: it is known before the action, so every estimate
    stays unbiased under it. What it forbids is never drawn, never relaxed into ĉ's input, and has exactly no
    gradient. Log-probabilities and entropy are the masked distribution's.

    Each bit of a MultiBinary action is here a variable of two values, since either may be masked.

    Arguments: those of :class:`~sb3_relax.RELAXA2C`. Needs sb3-contrib: ``pip install sb3_relax[contrib]``.

    :raises ValueError: for a policy that is not maskable; in ``learn()``, for an environment without masks, or a mask
        that forbids everything

    Example::

        from sb3_contrib.common.wrappers import ActionMasker
        from sb3_relax import MaskableRELAXA2C

        model = MaskableRELAXA2C("MlpPolicy", ActionMasker(env, lambda env: env.unwrapped.valid_actions()))
        model.learn(100_000)
        model.predict(obs, action_masks=masks)
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = MaskablePPO.policy_aliases
    policy_base = "MaskableActorCriticPolicy"

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

    def _cv_action_dim(self) -> int:
        dim = super()._cv_action_dim()
        return 2 * dim if isinstance(self.action_space, spaces.MultiBinary) else dim

    def _acting_context(self, env: VecEnv) -> dict[str, Any]:
        return {"action_masks": get_action_masks(env)} if self._use_masking else {}

    def _context(self, data: RolloutBufferSamples) -> dict[str, Any]:
        return {"action_masks": data.action_masks}  # type: ignore[attr-defined]

    def _collect(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        if self._use_masking and not is_masking_supported(env):
            raise UsageError(
                "the environment has no method action_masks(): wrap it in sb3_contrib.common.wrappers.ActionMasker, or "
                "learn(use_masking=False)"
            )
        if self.n_episodes is not None:
            return super()._collect(env, callback, rollout_buffer, n_rollout_steps)
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
        self: SelfMaskableRELAXA2C,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        use_masking: bool = True,
        progress_bar: bool = False,
    ) -> SelfMaskableRELAXA2C:
        """As A2C's, in MaskablePPO's order.

        :param use_masking: whether to ask the environment for masks
        """
        self._use_masking = use_masking
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
