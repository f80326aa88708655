"""The model that looks: where to, what is seen there, and what that was (after Mnih et al. 2014, arXiv:1406.6247)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_relax.tasks.attention.canvases import CELL, CELLS, VIEW

#: units of every hidden layer
UNITS = 64
CLASSES = 10


class Looker(nn.Module):
    """A locator, 64-64-16, and a classifier, 196-64-10, whose hidden layer remembers where there are several glimpses.

    With h_0 = 0, a_t = relu(V view + R h_{t-1}) gives the logits of the cell that glimpse t looks at, and
    h_t = relu(F glimpse_t + M [h_{t-1}, b_t]) what is known after it; the classes' logits are linear in h_T. With one
    glimpse there is no R and no M.

    :param glimpses: T
    """

    def __init__(self, glimpses: int):
        super().__init__()
        self.glimpses = glimpses
        self.overview = nn.Linear(VIEW * VIEW, UNITS)
        self.place = nn.Linear(UNITS, CELLS)
        self.detail = nn.Linear(CELL * CELL, UNITS)
        self.classes = nn.Linear(UNITS, CLASSES)
        if glimpses > 1:
            self.recall = nn.Linear(UNITS, UNITS, bias=False)
            self.remember = nn.Linear(UNITS + CELLS, UNITS, bias=False)

    def locate(self, view: Tensor, known: Tensor) -> Tensor:
        """Logits of the next glimpse's cell, ``[..., B, 16]``."""
        hidden = self.overview(view)
        return self.place(F.relu(hidden + self.recall(known) if self.glimpses > 1 else hidden))

    def look(self, cells: Tensor, known: Tensor, b: Tensor) -> Tensor:
        """h after a glimpse at the cell that the one-hot b, ``[..., B, 1, 16]``, points to: ``[..., B, 64]``."""
        hidden = self.detail((b @ cells).squeeze(-2))
        if self.glimpses > 1:
            hidden = hidden + self.remember(torch.cat([known, b.squeeze(-2)], -1))
        return F.relu(hidden)
