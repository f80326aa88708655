"""Numbers with a standard error that survives sums, differences and ratios."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Jackknifed:
    """An estimate, and what it becomes when each of its groups of samples is left out in turn.

    Sums, differences and ratios are taken on the replicates too, so the standard error of a ratio knows that numerator
    and denominator came from the same samples (Efron and Stein 1981). Groups must be independent of each other.

    :param value: from all samples
    :param replicates: without group i, ``[groups]``

    Example::

        ratio = with_cv / without
        low, high = ratio.interval(0.95)
    """

    value: float
    replicates: np.ndarray

    @property
    def standard_error(self) -> float:
        """√((n-1)/n Σ (replicate - mean)²)."""
        n = len(self.replicates)
        return math.sqrt((n - 1) / n * float(np.square(self.replicates - self.replicates.mean()).sum()))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's t interval with one degree of freedom less than there are groups.

        :raises ModuleNotFoundError: without scipy
        """
        from scipy import stats

        half = float(stats.t.ppf(0.5 + confidence / 2, len(self.replicates) - 1)) * self.standard_error
        return self.value - half, self.value + half

    def __add__(self, other: Jackknifed) -> Jackknifed:
        return Jackknifed(self.value + other.value, self.replicates + other.replicates)

    def __sub__(self, other: Jackknifed) -> Jackknifed:
        return Jackknifed(self.value - other.value, self.replicates - other.replicates)

    def __truediv__(self, other: Jackknifed) -> Jackknifed:
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.float64(self.value) / other.value
            return Jackknifed(float(value), self.replicates / other.replicates)


def mean(values: np.ndarray, groups: np.ndarray) -> Jackknifed:
    """The mean of ``values [N]``, in groups ``[N]`` of whole numbers from 0 on."""
    totals, counts = np.bincount(groups, values), np.bincount(groups)
    return Jackknifed(totals.sum() / counts.sum(), (totals.sum() - totals) / (counts.sum() - counts))


def mean_over_pairs(sums: Tensor, counts: np.ndarray) -> Jackknifed:
    """The mean of ⟨x_i, x_j⟩ over pairs of different groups: ‖E x‖² without bias.

    Pairs within a group are left out, since their members are not independent.

    :param sums: Σ x_i of each group, ``[groups, P]``
    :param counts: how many there are in each
    """
    sums = sums.double()
    with_others = (sums * (sums.sum(0) - sums)).sum(1).cpu().numpy()
    pairs = counts * (counts.sum() - counts)
    return Jackknifed(
        float(with_others.sum() / pairs.sum()), (with_others.sum() - 2 * with_others) / (pairs.sum() - 2 * pairs)
    )


def variance(gram: np.ndarray, groups: np.ndarray) -> Jackknifed:
    """Trace of the covariance of vectors x_i with ``gram [N, N]`` of ⟨x_i, x_j⟩: E‖x‖² - ‖E x‖², without bias.

    ‖E x‖² is a mean over pairs of different groups, since members of a group are not independent.

    :param groups: ``[N]``, whole numbers from 0 on, at least three of them for a standard error
    """
    apart = groups[:, None] != groups

    def of(keep: np.ndarray) -> float:
        pairs = apart & keep[:, None] & keep
        return float(np.diag(gram)[keep].mean() - gram[pairs].mean())

    everything = np.ones(len(groups), dtype=bool)
    return Jackknifed(of(everything), np.array([of(groups != group) for group in range(groups.max() + 1)]))
