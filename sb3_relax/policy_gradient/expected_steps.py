"""How many steps a batch may be expected to have, before it is seen."""

from __future__ import annotations

import torch as th
from torch import nn


class ExpectedSteps(nn.Module):
    """What the sum of ĝ over a batch is divided by.

    Batches of ``n_steps`` have a fixed number of steps, and the sum becomes a mean. The number of steps of whole
    episodes depends on the actions: such a number below a sum whose mean is zero would leave a mean. Whole episodes are
    therefore divided by the average of earlier batches. The first batch has none before it. Any number that does not
    look at it is unbiased; this one is the longest it could be, so that the first step of the policy may be too small
    to matter, and never too large.

    :param longest: the most steps that a batch of whole episodes can have; ``None`` where batches have a fixed number
    :param decay: weight of the past in the average
    """

    average: th.Tensor

    def __init__(self, longest: int | None, decay: float = 0.9):
        super().__init__()
        self.longest = longest
        self.decay = decay
        self.register_buffer("average", th.zeros(()))

    def divisor(self, n_steps: int) -> float:
        """For a batch of ``n_steps``."""
        if self.longest is None:
            return n_steps
        return self.average.item() or self.longest

    def observe(self, n_steps: int) -> None:
        """Take in a batch of whole episodes, after it was used."""
        if self.longest is None:
            return
        past = self.average.item()
        self.average.fill_(n_steps if past == 0 else self.decay * past + (1 - self.decay) * n_steps)
