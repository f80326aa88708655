"""What action masks add: the environment is asked for them, and the policy acts under them."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, PyTorchObs
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.algorithm.contrib import (
    MaskableActorCriticPolicy,
    MaskableCategorical,
    MaskableCategoricalDistribution,
    MaskableDictRolloutBuffer,
    MaskablePPO,
    MaskableRolloutBuffer,
)
from sb3_relax.algorithm.masked_distribution import BatchedMaskableMultiCategoricalDistribution, MaskedBits, batched
from sb3_relax.algorithm.masks import checked_masks, masks_of, offers_masks
from sb3_relax.catalogue import MASKABLE
from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.quick_forward import know

know(
    list(MaskablePPO.policy_aliases.values()),
    [BatchedMaskableMultiCategoricalDistribution, MaskedBits, MaskableCategoricalDistribution, MaskableCategorical],
)

SelfMasked = TypeVar("SelfMasked", bound="Masked")


class Masked(ControlVariateA2C):
    """Rollouts that ask the environment which actions are allowed, as sb3-contrib's MaskablePPO has them.

    To be put before an algorithm for discrete actions among a class's bases.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = MaskablePPO.policy_aliases
    policy_base = MASKABLE
    batching = staticmethod(batched)
    #: by default, of rollouts without and with Dict observations
    buffer_classes: ClassVar[tuple[type[RolloutBuffer], type[RolloutBuffer]]] = (
        MaskableRolloutBuffer,
        MaskableDictRolloutBuffer,
    )
    #: what evaluates its agents, for the warning where something else does
    evaluation: ClassVar[str] = (
        "sb3-contrib's MaskableEvalCallback (sb3_contrib.common.maskable.callbacks) and evaluate_policy "
        "(sb3_contrib.common.maskable.evaluation) or, where a VecEnv or its wrapper has the masks, MaskedEvalCallback "
        "and UnderMasks of sb3_relax.evaluation"
    )

    policy: MaskableActorCriticPolicy  # type: ignore[assignment]

    #: whether rollouts ask the environment for masks: ``learn()``'s argument
    _use_masking: bool = True

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None:
            self.rollout_buffer_class = self.buffer_classes[isinstance(self.observation_space, spaces.Dict)]
        policy_class: Any = self.policy_class

        def without_sde(*args: Any, use_sde: bool, **kwargs: Any) -> MaskableActorCriticPolicy:
            return policy_class(*args, **kwargs)

        # SB3 hands every on-policy policy use_sde, which a maskable one does not know
        self.policy_class = without_sde  # type: ignore[assignment]
        try:
            super()._setup_model()
        finally:
            self.policy_class = policy_class
        if not isinstance(self.rollout_buffer, self.buffer_classes):
            names = " or ".join(f"{kind.__module__}.{kind.__name__}" for kind in self.buffer_classes)
            raise UsageError(
                f"rollout_buffer_class must keep masks, so it must derive from {names}; got {self.rollout_buffer_class}"
            )

    def acting_context(self, env: VecEnv) -> dict[str, Any]:
        return {"action_masks": masks_of(env, self.action_space)} if self._use_masking else {}

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        if self._use_masking and not offers_masks(env):
            raise UsageError(
                "the environment has no method action_masks(): wrap it in sb3_contrib.common.wrappers.ActionMasker, or "
                "learn(use_masking=False)"
            )
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def policy_gradient(
        self,
        observations: PyTorchObs | np.ndarray,
        actions: th.Tensor | np.ndarray,
        advantages: th.Tensor | np.ndarray,
        **context: Any,
    ) -> dict[str, th.Tensor]:
        masks = context.get("action_masks")
        if masks is not None:
            context["action_masks"] = checked_masks(masks, self.action_space, len(actions), context.get("mask"))
        return super().policy_gradient(observations, actions, advantages, **context)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As MaskablePPO's.

        An agent that learns with masks and is asked for an action without them warns: SB3's ``EvalCallback`` and
        ``evaluate_policy`` ask so, and what they measure is the agent among actions that it never had to avoid.

        :param action_masks: which actions are allowed, ``[n]`` or ``[n_envs, n]``: the classes of all variables one
            after the other (two a bit); ``None`` allows all
        :raises UsageError: (a ``ValueError``) for masks of another size, saying which is right
        """
        if action_masks is None:
            if self._use_masking:
                warnings.warn(
                    f"predict() was given no action_masks, so this {type(self).__name__} may take what the environment "
                    f"forbids. SB3's EvalCallback and evaluate_policy give none: use {self.evaluation}",
                    stacklevel=2,
                )
        elif not isinstance(observation, tuple):  # of gymnasium's reset(), which the policy refuses
            tensor, _ = self.policy.obs_to_tensor(observation)
            count = len(next(iter(tensor.values())) if isinstance(tensor, dict) else tensor)
            action_masks = checked_masks(action_masks, self.action_space, count)
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
