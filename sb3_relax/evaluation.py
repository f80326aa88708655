"""Evaluation under masks: SB3's own, which hands an LSTM's states on, with an agent that asks for masks."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.algorithm.contrib import MaskableEvalCallback
from sb3_relax.algorithm.masked import Masked
from sb3_relax.algorithm.masks import masks_of, offers_masks
from sb3_relax.errors import UsageError


class UnderMasks:
    """A masked agent that asks an environment which actions are allowed, for what calls ``predict()`` without masks.

    SB3's ``evaluate_policy`` and rl-zoo's commands are of that kind. sb3-contrib's ``evaluate_policy`` gives masks, but
    loses the state of a policy with an LSTM, and does not see masks that a VecEnv's wrapper offers.

    :param model: an agent of MaskableRELAXA2C or MaskableRecurrentRELAXA2C; all but ``predict()`` is its own
    :param env: in which it is to act; its masks are those of the moment of each call
    :raises UsageError: (a ``ValueError``) for an environment without ``action_masks()``

    Example::

        from stable_baselines3.common.evaluation import evaluate_policy

        mean, std = evaluate_policy(UnderMasks(model, env), env, n_eval_episodes=20)
    """

    def __init__(self, model: Masked, env: gym.Env | VecEnv):
        if not offers_masks(env):
            raise UsageError(
                "the environment has no method action_masks(): wrap it in sb3_contrib.common.wrappers.ActionMasker"
            )
        self.model = model
        self.env = env

    def __getattr__(self, name: str) -> Any:
        # of Python's own names none is the model's: a copy of this would be one of the model, or look for it for ever
        if name == "model" or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.model, name)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """The model's, under the environment's masks."""
        masks = masks_of(self.env, self.model.action_space)
        return self.model.predict(observation, state, episode_start, deterministic, action_masks=masks)


class MaskedEvalCallback(MaskableEvalCallback):
    """sb3-contrib's ``MaskableEvalCallback`` for policies with or without an LSTM, and masks of any wrapper's.

    Arguments are those of sb3-contrib's: SB3's ``EvalCallback``'s, and ``use_masking``.

    Example::

        model.learn(100_000, callback=MaskedEvalCallback(eval_env, eval_freq=1_000))
    """

    def _on_step(self) -> bool:
        model = self.model
        if self.use_masking:
            self.model = UnderMasks(model, self.eval_env)  # type: ignore[assignment, arg-type]
        try:
            return EvalCallback._on_step(self)
        finally:
            self.model = model
