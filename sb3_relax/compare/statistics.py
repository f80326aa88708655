"""What a handful of seeds can say: interquartile means, probability of improvement, performance profiles.

Agarwal et al. 2021 (arXiv:2108.13264), on scipy. A score is one number per run; algorithms are compared within an
environment, and over environments by strata: every bootstrap sample draws each environment's runs anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate and its 95% bootstrap interval, which is NaN where a single run is compared with runs that vary."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: np.ndarray, axis: int = -1) -> Any:
    """The mean of the middle half of the runs."""
    return stats.trim_mean(scores, 0.25, axis=axis)


def iqm(scores: Sequence[float], seed: int = 0) -> Interval:
    """Interquartile mean of one environment's runs with a percentile bootstrap interval."""
    return _bootstrap((np.asarray(scores),), lambda *s, axis=-1: interquartile_mean(s[0], axis), seed)


def ratio_of_means(numerator: Sequence[float], denominator: Sequence[float], seed: int = 0) -> Interval:
    """One mean over another, of positive scores of one environment's runs."""

    def statistic(x: np.ndarray, y: np.ndarray, axis: int = -1) -> Any:
        return x.mean(axis) / y.mean(axis)

    return _bootstrap((np.asarray(numerator), np.asarray(denominator)), statistic, seed)


def probability_of_improvement(
    ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]], seed: int = 0
) -> Interval:
    """P(a run of ours scores higher than one of theirs), ties counted half, averaged over environments.

    Mann-Whitney's U over the number of pairs; the bootstrap is stratified by environment and algorithm.

    :param ours: environment → scores of its runs; -inf for a run that is below every other, and level with its like
    :param theirs: the same environments
    :raises ValueError: where the environments differ
    """
    if set(ours) != set(theirs):
        raise ValueError(f"the same environments are needed; got {sorted(ours)} and {sorted(theirs)}")
    environments = list(ours)
    samples = tuple(np.asarray(of[env]) for env in environments for of in (ours, theirs))

    def statistic(*samples: np.ndarray, axis: int = -1) -> Any:
        pairs = zip(samples[0::2], samples[1::2], strict=True)
        return np.mean([_wins(x, y) for x, y in pairs], axis=0)

    return _bootstrap(samples, statistic, seed)


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of pairs, along the last dimension of each, in which x is higher."""
    x, y = x[..., :, None], y[..., None, :]
    return ((x > y) + 0.5 * (x == y)).mean((-2, -1))


def performance_profile(scores: Sequence[float], thresholds: np.ndarray) -> np.ndarray:
    """Share of runs that score more than each threshold."""
    return (np.asarray(scores)[:, None] > thresholds).mean(0)


def mean_return_during_training(record: Mapping[str, Any], points: int = 200) -> float:
    """Sample efficiency as one number: the mean over the run's steps of the return of the episode that ended last.

    Every run has one, those that never reach a threshold included.
    """
    grid = np.linspace(0, record["timesteps"], points + 1)[1:]
    return float(return_at(record, grid).mean())


def return_at(record: Mapping[str, Any], steps: np.ndarray) -> np.ndarray:
    """Return of the episode that ended last at each step (before the first end, of the first)."""
    place = np.searchsorted(record["episode_steps"], steps, side="right") - 1
    return np.asarray(record["episode_returns"])[np.maximum(place, 0)]


def _bootstrap(samples: tuple[np.ndarray, ...], statistic: Any, seed: int) -> Interval:
    value = float(statistic(*samples))
    if all((sample == sample[0]).all() for sample in samples):
        return Interval(value, value, value)  # scipy would warn: nothing varies
    if min(map(len, samples)) < 2:
        return Interval(value, np.nan, np.nan)  # scipy would refuse: how much one run varies is not known
    # scipy draws each sample anew by itself, which is what makes the bootstrap stratified
    low, high = stats.bootstrap(
        samples, statistic, n_resamples=RESAMPLES, method="percentile", vectorized=True, rng=np.random.default_rng(seed)
    ).confidence_interval
    return Interval(value, float(low), float(high))
