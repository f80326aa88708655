"""The contract of a block of the Fisher matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch as th


class Block(ABC):
    """The block of the Fisher matrix F that belongs to some weights; between two blocks F is taken to be zero.

    :param weights: whose block it is
    :param outputs: of the layer that has the weights, ``[N, ...]``; ``None`` where the block is known without a
        gradient
    """

    def __init__(self, weights: Sequence[th.nn.Parameter], outputs: th.Tensor | None = None):
        self.weights = weights
        self.outputs = outputs

    @abstractmethod
    def statistics(self, gradient: th.Tensor | None) -> list[th.Tensor]:
        """What is averaged over updates, as this batch has it.

        :param gradient: ∂ log π(y|s) at ``outputs``, y drawn from the policy, in their shape
        """

    @abstractmethod
    def solve(self, statistics: Sequence[th.Tensor], gradients: Sequence[th.Tensor], damping: float) -> list[th.Tensor]:
        """(block + ``damping`` · 1)⁻¹ ``gradients``.

        :param statistics: averages of what :meth:`statistics` gave
        :param gradients: of the weights, in their shapes
        :return: in the shapes of the weights
        """
