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

    One pass may have many estimates of one estimator, of the layers that share it for instance. It is known by what was
    before it: an estimate that is later than the last pass.

    :param who: the estimator, for the warning
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._is_new = False  # whether there was an estimate since the last pass
        self._passes = 0
        self._before: list[Tensor] = []
        self._done = False

    def estimated(self) -> None:
        """An estimate has been made, whose backward pass is yet to come."""
        self._is_new = True

    def passed(self, phi: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """A backward pass of an estimate, or of one of several estimates, is over.

        :param phi: the parameters that it has gradients for
        :param gradients: of ``phi``
        """
        if self._done or not (self._is_new and phi):
            return
        self._is_new = False
        if self._passes % PATIENCE == 0:
            now = [parameter.detach().clone() for parameter in phi]
            stayed = len(now) == len(self._before) and all(map(_are_equal, now, self._before))
            if stayed and any(gradient is not None and bool(gradient.any()) for gradient in gradients):
                self._warn()
                return
            self._before = now
        self._passes += 1

    def _warn(self) -> None:
        self._done, self._before = True, []
        warnings.warn(
            f"{self._who} has had gradients for its parameters φ in {PATIENCE} backward passes, and φ is what it was "
            "before them: the control variate learns nothing. Give the optimizer estimator.parameters() beside those "
            "of θ; where φ is to stay as it is, say estimator.requires_grad_(False)",
            stacklevel=2,
        )


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and one.dtype == other.dtype and torch.equal(one, other)
