"""sb3-contrib's LSTM policies with its maskable distributions in the place of SB3's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import MultiCategoricalDistribution
from stable_baselines3.common.type_aliases import Schedule

from sb3_relax.algorithm.contrib import (
    MaskableDistribution,
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
    RNNStates,
    make_masked_proba_distribution,
)


class MaskableRecurrentActorCriticPolicy(RecurrentActorCriticPolicy):
    """An actor-critic with an LSTM, which acts under masks: sb3-contrib's recurrent policy, and its distributions.

    Arguments are those of sb3-contrib's ``RecurrentActorCriticPolicy``. Its methods take ``action_masks`` beside what
    they take there: numbers or booleans, ``[N, n]``, with n the number of actions, of the values of all variables, or
    twice that of bits; ``None`` allows all.
    """

    #: those of the call that is under way
    _action_masks: Any = None

    def _build(self, lr_schedule: Schedule) -> None:
        maskable = make_masked_proba_distribution(self.action_space)
        if isinstance(self.action_space, spaces.MultiBinary):
            # either value of a bit may be forbidden, so each has a logit: SB3 makes them for variables of two classes
            self.action_dist = MultiCategoricalDistribution([2] * self.action_space.n)  # type: ignore[operator]
        super()._build(lr_schedule)
        self.action_dist = maskable

    @contextmanager
    def _under(self, action_masks: Any) -> Iterator[None]:
        """Masks for every distribution that is made meanwhile; ``None``: those of the call around this one."""
        before = self._action_masks
        self._action_masks = before if action_masks is None else action_masks
        try:
            yield
        finally:
            self._action_masks = before

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Any:
        distribution: Any = self.action_dist.proba_distribution(action_logits=self.action_net(latent_pi))
        if self._action_masks is not None:
            distribution.apply_masking(self._action_masks)
        return distribution

    def forward(  # type: ignore[override]
        self,
        obs: th.Tensor,
        lstm_states: RNNStates,
        episode_starts: th.Tensor,
        deterministic: bool = False,
        action_masks: np.ndarray | th.Tensor | None = None,
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, RNNStates]:
        """Action, V, log π(a|s) and the next states, as RecurrentActorCriticPolicy's."""
        with self._under(action_masks):
            return super().forward(obs, lstm_states, episode_starts, deterministic)

    def evaluate_actions(  # type: ignore[override]
        self,
        obs: th.Tensor,
        actions: th.Tensor,
        lstm_states: RNNStates,
        episode_starts: th.Tensor,
        action_masks: np.ndarray | th.Tensor | None = None,
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """V, log π(a|s) and entropy, as RecurrentActorCriticPolicy's."""
        with self._under(action_masks):
            return super().evaluate_actions(obs, actions, lstm_states, episode_starts)

    def get_distribution(  # type: ignore[override]
        self,
        obs: th.Tensor,
        lstm_states: tuple[th.Tensor, th.Tensor],
        episode_starts: th.Tensor,
        action_masks: np.ndarray | th.Tensor | None = None,
    ) -> tuple[MaskableDistribution, tuple[th.Tensor, ...]]:
        """The distribution of actions and the next states, as RecurrentActorCriticPolicy's."""
        with self._under(action_masks):
            return super().get_distribution(obs, lstm_states, episode_starts)  # type: ignore[return-value]

    def _predict(  # type: ignore[override]
        self,
        observation: th.Tensor,
        lstm_states: tuple[th.Tensor, th.Tensor],
        episode_starts: th.Tensor,
        deterministic: bool = False,
        action_masks: np.ndarray | th.Tensor | None = None,
    ) -> tuple[th.Tensor, tuple[th.Tensor, ...]]:
        with self._under(action_masks):
            return super()._predict(observation, lstm_states, episode_starts, deterministic)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Action and next state, as RecurrentActorCriticPolicy's.

        Where an episode goes on and no state is given, it warns: what was seen before would be forgotten.
        """
        if state is None and episode_start is not None and not np.all(episode_start):
            warnings.warn(
                "predict() was given no state in the middle of an episode (episode_start is False), so the policy has "
                "forgotten all it saw: give it the state that predict() returned before. Under masks, sb3-contrib's "
                "evaluate_policy and MaskableEvalCallback lose the state: use MaskedEvalCallback or UnderMasks of "
                "sb3_relax.evaluation",
                stacklevel=3,
            )
        with self._under(action_masks):
            return super().predict(observation, state, episode_start, deterministic)


class MaskableRecurrentActorCriticCnnPolicy(MaskableRecurrentActorCriticPolicy, RecurrentActorCriticCnnPolicy):
    """The same for images."""


class MaskableRecurrentMultiInputActorCriticPolicy(
    MaskableRecurrentActorCriticPolicy, RecurrentMultiInputActorCriticPolicy
):
    """The same for Dict observations."""
