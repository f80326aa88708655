"""Errors that come early and say what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.type_aliases import Schedule

from sb3_relax.common.errors import UsageError


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:  # not a number: text, as YAML reads 1e-3
        return False


def require_rate(name: str, value: float) -> float:
    """A learning rate: finite and not negative (0 switches learning off).

    :raises UsageError: otherwise
    """
    if not (_is_finite(value) and value >= 0):
        raise UsageError(f"{name} must be a finite number >= 0 (or a schedule of such numbers); got {value!r}")
    return value


def require_schedule(name: str, rate: float | Schedule) -> None:
    """A learning rate, or a schedule that starts with one.

    :raises UsageError: otherwise
    """
    require_rate(name, rate(1.0) if callable(rate) else rate)


def require_between(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """:raises UsageError: where ``value`` is not a finite number in [low, high]."""
    if not (_is_finite(value) and low <= value <= high):
        allowed = f">= {low}" if math.isinf(high) else f"between {low} and {high}"
        raise UsageError(f"{name} must be a finite number {allowed}; got {value!r}")


def require_count(name: str, value: int, low: int = 1) -> None:
    """:raises UsageError: where ``value`` is not a whole number of at least ``low``."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < low:
        raise UsageError(f"{name} must be a whole number >= {low}; got {value!r}")


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """:raises UsageError: where ``value`` is not one of ``choices``."""
    if value not in choices:
        raise UsageError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


#: sb3-contrib's families of policies, by the class each derives from: a word of their names, and who takes them
POLICY_FAMILIES = {
    "MaskableActorCriticPolicy": ("Mask", "MaskableRELAXA2C"),
    "RecurrentActorCriticPolicy": ("Lstm", "RecurrentLAXA2C (Box) or RecurrentRELAXA2C (discrete)"),
}


def other_taker(policy: str) -> str:
    """Which algorithm has a policy of that name, to end an error with; empty where none is known."""
    takers = [taker for word, taker in POLICY_FAMILIES.values() if word in policy]
    return f". For sb3-contrib's policies use sb3_relax.{takers[0]}" if takers else ""


def require_policy_family(who: str, policy_class: type | None, accepted: str | None) -> None:
    """A policy whose methods take what the algorithm hands them. By name, so that sb3-contrib need not be there.

    :param who: the algorithm
    :param policy_class: ``None`` where it is not known yet, as in load()
    :param accepted: the family it must belong to; ``None`` for SB3's own
    :raises UsageError: naming the algorithm to use instead
    """
    bases = {base.__name__ for base in getattr(policy_class, "__mro__", ())}
    if not bases:
        return
    if accepted is not None and accepted not in bases:
        raise UsageError(f"{who} takes policies that derive from sb3-contrib's {accepted}; got {policy_class}")
    for family, (_, taker) in POLICY_FAMILIES.items():
        if family in bases and family != accepted:
            raise UsageError(f"{who} does not take {policy_class}: use sb3_relax.{taker}")


def _first_bad(array: np.ndarray, steps: bool) -> str | None:
    """Where an array of ``[n_steps, n_envs, ...]`` (or ``[n_envs, ...]``) is not finite."""
    if not np.issubdtype(array.dtype, np.floating):
        return None
    bad = ~np.isfinite(array)
    if not bad.any():
        return None
    index = np.argwhere(bad)[0]
    where = f"step {index[0]} of the rollout, environment {index[1]}" if steps else f"environment {index[0]}"
    return f"{array[tuple(index)]} at {where}"


def require_finite(name: str, values: np.ndarray | Mapping[Any, np.ndarray], steps: bool = True) -> None:
    """Rewards or observations free of NaN and infinity.

    :param name: what they are
    :param values: ``[n_steps, n_envs, ...]``, or a dict of such arrays
    :param steps: ``False`` where there is no leading time dimension
    :raises UsageError: names the first bad value, its step and its environment
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            require_finite(f"{name}[{key!r}]", value, steps)
        return
    found = _first_bad(values, steps)
    if found is not None:
        raise UsageError(
            f"{name} must be finite, but the environment gave {found}; no weight was changed by this rollout. "
            "stable_baselines3.common.vec_env.VecCheckNan finds the step inside the environment."
        )
