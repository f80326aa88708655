"""A mean over seeds, and how far chance may have moved it."""

from __future__ import annotations

import math
from collections.abc import Sequence


def half_width(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """Half of the t-interval of a mean; ``None`` for a single value, of which nothing is known.

    :raises ModuleNotFoundError: without scipy
    """
    from scipy import stats

    if len(values) < 2:
        return None
    return float(stats.sem(values) * stats.t.ppf((1 + confidence) / 2, len(values) - 1))


def plus_minus(value: float, half: float | None, form: str) -> str:
    """``value ± half``; the value and "(one seed)" where there is no interval.

    :param half: ``None`` or NaN where it is not known
    :param form: of both numbers, as in ``format()``

    Example::

        plus_minus(12.34, 0.5, ".1f")  # '12.3 ± 0.5'
        plus_minus(12.34, None, ".1f")  # '12.3 (one seed)'
    """
    if half is None or math.isnan(half):
        return f"{value:{form}} (one seed)"
    return f"{value:{form}} ± {half:{form}}"
