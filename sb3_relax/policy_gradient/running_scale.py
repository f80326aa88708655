"""The root mean square of something, over recent batches."""

from __future__ import annotations

import torch as th
from torch import nn


class RunningScale(nn.Module):
    """An average of mean squares in which older batches count less; its buffers are saved with the agent.

    :param decay: weight of the past
    """

    square: th.Tensor
    weight: th.Tensor

    def __init__(self, decay: float = 0.95):
        super().__init__()
        self.decay = decay
        for name in ("square", "weight"):
            self.register_buffer(name, th.zeros(()))

    @property
    def value(self) -> float:
        """The root of the average, 1 before any evidence, and never zero."""
        weight = self.weight.item()
        return max(self.square.item() / weight, 1e-16) ** 0.5 if weight > 0 else 1.0

    def take_in(self, mean_square: th.Tensor) -> None:
        """One batch more. A mean square that overflows counts as half of the largest number there is."""
        largest = th.finfo(self.square.dtype).max / 2  # an average of which never overflows by rounding
        self.square.mul_(self.decay).add_((1 - self.decay) * mean_square.clamp(max=largest))
        self.weight.mul_(self.decay).add_(1 - self.decay)
