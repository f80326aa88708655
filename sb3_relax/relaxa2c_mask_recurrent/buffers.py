"""Rollout buffers that keep masks beside the LSTM's states: both of sb3-contrib's, of which it has none in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_relax.algorithm.contrib import (
    MaskableDictRolloutBuffer,
    MaskableRolloutBuffer,
    RecurrentDictRolloutBuffer,
    RecurrentRolloutBuffer,
    RNNStates,
)


class MaskableRecurrentSamples(NamedTuple):
    """What ``get()`` gives: sb3-contrib's recurrent samples, and the masks of their steps."""

    observations: PyTorchObs
    actions: th.Tensor
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    lstm_states: RNNStates
    episode_starts: th.Tensor
    mask: th.Tensor  #: 0 where a step is padding
    action_masks: th.Tensor  #: ``[S·T, n]``, 0 where an action is forbidden or a step is padding


class MasksOfSequences:
    """Masks in sb3-contrib's sequences. To be put before a recurrent and a maskable buffer among a class's bases."""

    def get(self: Any, batch_size: int | None = None) -> Iterator[MaskableRecurrentSamples]:
        """As RecurrentRolloutBuffer's, with ``action_masks``."""
        if self.full and not self.generator_ready:
            self.action_masks = self.swap_and_flatten(self.action_masks)
        yield from super().get(batch_size)  # type: ignore[misc]

    def _get_samples(self: Any, batch_inds: np.ndarray, *args: Any) -> MaskableRecurrentSamples:
        samples: Any = super()._get_samples(batch_inds, *args)  # type: ignore[misc]
        masks: th.Tensor = self.pad(self.action_masks[batch_inds]).flatten(0, 1)
        return MaskableRecurrentSamples(**samples._asdict(), action_masks=masks)


class MaskableRecurrentRolloutBuffer(MasksOfSequences, RecurrentRolloutBuffer, MaskableRolloutBuffer):  # type: ignore[misc]
    """A rollout of steps with LSTM states and masks; arguments are RecurrentRolloutBuffer's."""


class MaskableRecurrentDictRolloutBuffer(  # type: ignore[misc]
    MasksOfSequences, RecurrentDictRolloutBuffer, MaskableDictRolloutBuffer
):
    """The same with Dict observations; arguments are RecurrentDictRolloutBuffer's."""
