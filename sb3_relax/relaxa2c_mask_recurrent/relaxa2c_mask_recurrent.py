"""MaskableRecurrentRELAXA2C: RELAXA2C with invalid action masking and an LSTM."""

from __future__ import annotations

from typing import ClassVar

from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.algorithm.masked import Masked
from sb3_relax.algorithm.recurrent import Recurrent
from sb3_relax.catalogue import MASKABLE_RECURRENT
from sb3_relax.relaxa2c.relaxa2c import RELAXA2C
from sb3_relax.relaxa2c_mask_recurrent.buffers import MaskableRecurrentDictRolloutBuffer, MaskableRecurrentRolloutBuffer
from sb3_relax.relaxa2c_mask_recurrent.handed_masks import HandsMasks
from sb3_relax.relaxa2c_mask_recurrent.policies import (
    MaskableRecurrentActorCriticCnnPolicy,
    MaskableRecurrentActorCriticPolicy,
    MaskableRecurrentMultiInputActorCriticPolicy,
)


class MaskableRecurrentRELAXA2C(Masked, Recurrent, RELAXA2C):
    """RELAXA2C with invalid action masking and an LSTM: MaskableRELAXA2C and RecurrentRELAXA2C in one.

    For states that one observation does not show, in environments that say which actions are invalid. They say it as
    for :class:`~sb3_relax.MaskableRELAXA2C`, by a method ``action_masks()``, and what a mask forbids is never drawn,
    never relaxed into ĉ's input, and has exactly no gradient. The LSTM is that of
    :class:`~sb3_relax.RecurrentRELAXA2C`, with the same policies' names and sizes. It sees observations alone: put the
    mask into the observation where the agent is to remember what was forbidden.

    sb3-contrib has no policy with both. ``"MlpLstmPolicy"``, ``"CnnLstmPolicy"`` and ``"MultiInputLstmPolicy"`` are its
    recurrent policies with its maskable distributions; own ones derive from
    ``sb3_relax.relaxa2c_mask_recurrent.MaskableRecurrentActorCriticPolicy``.

    sb3-contrib's ``MaskableEvalCallback`` and ``evaluate_policy`` lose the LSTM's states. Use
    :class:`~sb3_relax.evaluation.MaskedEvalCallback` and :class:`~sb3_relax.evaluation.UnderMasks` in their place.

    Arguments: those of :class:`~sb3_relax.RELAXA2C`. Needs sb3-contrib: ``pip install sb3_relax[contrib]``.

    :raises ValueError: for a policy that is not of this kind, or what RELAXA2C refuses; in ``learn()``, for an
        environment without masks, or a mask of the wrong size or that forbids everything

    Example::

        from sb3_relax import MaskableRecurrentRELAXA2C

        model = MaskableRecurrentRELAXA2C("MlpLstmPolicy", env, n_steps=32)
        model.learn(100_000)
        action, state = model.predict(obs, state=state, episode_start=episode_start, action_masks=masks)
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpLstmPolicy": MaskableRecurrentActorCriticPolicy,
        "CnnLstmPolicy": MaskableRecurrentActorCriticCnnPolicy,
        "MultiInputLstmPolicy": MaskableRecurrentMultiInputActorCriticPolicy,
    }
    policy_base = MASKABLE_RECURRENT
    buffer_classes = (MaskableRecurrentRolloutBuffer, MaskableRecurrentDictRolloutBuffer)
    evaluation = "MaskedEvalCallback and UnderMasks of sb3_relax.evaluation"

    policy: MaskableRecurrentActorCriticPolicy  # type: ignore[assignment]

    def collect_steps(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        if not self._use_masking:
            return super().collect_steps(env, callback, rollout_buffer, n_rollout_steps)
        handing = HandsMasks(callback, rollout_buffer, lambda: self.acting_context(env)["action_masks"])
        hook = self.policy.register_forward_pre_hook(handing.to_policy, with_kwargs=True)
        try:
            return super().collect_steps(env, handing, rollout_buffer, n_rollout_steps)
        finally:
            hook.remove()
