"""Running averages over updates: of what the Fisher matrix is made of, and of the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from torch import nn


class Averages(nn.Module):
    """Averages of lists of tensors over the batches seen, older ones fading; saved with the agent.

    The buffers are made with the first batch. Loading a state leaves those that it has.

    :param decay: weight of the past; the first batches are averaged evenly, until they have as much of it
    """

    steps: th.Tensor

    def __init__(self, decay: float = 0.95):
        super().__init__()
        self.decay = decay
        self.register_buffer("steps", th.zeros((), dtype=th.int64))

    @th.no_grad()
    def observe(self, statistics: Sequence[Sequence[th.Tensor]]) -> list[list[th.Tensor]]:
        """Take in a batch.

        :param statistics: of each block of the Fisher matrix, or of another unit
        :return: the averages, in the same places
        """
        self.steps += 1
        weight = max(1 / self.steps.item(), 1 - self.decay)
        return [
            [self._average(f"average_{i}_{j}", value, weight) for j, value in enumerate(values)]
            for i, values in enumerate(statistics)
        ]

    def _average(self, name: str, value: th.Tensor, weight: float) -> th.Tensor:
        average = self._buffers.get(name)
        if average is None or average.shape != value.shape:  # the first, or the first of another policy
            self.register_buffer(name, value.clone())
        else:
            average.lerp_(value, weight)
        return self.get_buffer(name)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for own in [name for name in self._buffers if name != "steps"]:
            delattr(self, own)
        for name, value in state_dict.items():
            if name.startswith(f"{prefix}average_"):
                self.register_buffer(name.removeprefix(prefix), th.zeros_like(value, device=self.steps.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
