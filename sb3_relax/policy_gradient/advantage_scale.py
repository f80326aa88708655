"""The size of advantages, as earlier batches had them."""

from __future__ import annotations

import torch as th
from torch import nn


class AdvantageScale(nn.Module):
    """What advantages are divided by with ``normalize_advantage="running"``: their root mean square in earlier batches.

    SB3's own normalisation divides by the standard deviation of the very batch, and subtracts its mean. Both depend on
    every action of the batch, so that the mean of the gradient is no longer that of the policy gradient. A scale that
    was fixed before the batch only changes the gradient's length. Before any evidence it is 1.

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
        """The scale, never zero."""
        weight = self.weight.item()
        return max(self.square.item() / weight, 1e-16) ** 0.5 if weight > 0 else 1.0

    def observe(self, advantages: th.Tensor) -> None:
        """Take in the advantages of a batch as they came, ``[N]``, after it was used."""
        self.square.mul_(self.decay).add_((1 - self.decay) * advantages.square().mean())
        self.weight.mul_(self.decay).add_(1 - self.decay)
