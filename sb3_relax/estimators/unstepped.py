"""A warning for parameters φ that no optimizer has."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

#: backward passes in a row after which φ is looked at; more than gradients are accumulated over
PATIENCE = 1000


class Unstepped:
    """Counts backward passes of one estimator, and says so, once, where φ has gradients and never moves.

    An estimator whose φ was left out of the optimizer stays unbiased, so that nothing but its variance would tell.
    Values are compared, and not versions: it does not matter how φ is stepped.
    """

    def __init__(self) -> None:
        self._passes = 0
        self._before: list[Tensor] = []
        self._done = False

    def passed(self, who: str, phi: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """A backward pass is over.

        :param who: the estimator, for the warning
        :param phi: the parameters that it has gradients for
        :param gradients: of ``phi``
        """
        if self._done or not phi:
            return
        if self._passes % PATIENCE == 0:
            now = [parameter.detach().clone() for parameter in phi]
            stayed = len(now) == len(self._before) and all(map(_are_equal, now, self._before))
            if stayed and any(gradient is not None and bool(gradient.any()) for gradient in gradients):
                self._warn(who)
                return
            self._before = now
        self._passes += 1

    def _warn(self, who: str) -> None:
        self._done, self._before = True, []
        warnings.warn(
            f"{who} has had gradients for its parameters φ in {PATIENCE} backward passes, and φ is what it was before "
            "them: the control variate learns nothing. Give the optimizer estimator.parameters() beside those of θ; "
            "where φ is to stay as it is, say estimator.requires_grad_(False)",
            stacklevel=2,
        )


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and one.dtype == other.dtype and torch.equal(one, other)
