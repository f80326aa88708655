"""Errors of whoever calls, and the checks that raise them: early, clear, and with the remedy."""

from __future__ import annotations

import difflib
import errno
import math
import re
from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import Any

import numpy as np


class UsageError(ValueError):
    """What the caller gave cannot be used, whatever the code does; the message says what can.

    The command lines print it without a traceback; other errors may be bugs, and keep theirs.
    """


class NeedsTrust(UsageError):
    """A file that can be read only by running code that it names; the message says which, and what can be done."""


class ActionsNotTaken(UsageError, AssertionError):
    """Actions that an algorithm does not take: an ``AssertionError`` too, as SB3 raises it."""


class ParametersDoNotFit(UsageError, RuntimeError):
    """Parameters of another agent than the one they are given to: a ``RuntimeError`` too, as torch raises it."""


class AgentNotFound(FileNotFoundError):
    """There is no trained agent where one was asked for; the message says where that was."""


class DiskFull(OSError):
    """There is no space for a file; the message names it, and says what survived."""

    def __init__(self, number: int, message: str):
        super().__init__(number, message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class WorkerDied(RuntimeError):
    """A process that environments run in is no more; the message says which, and of what it died."""


#: of the system's errors, those that there is no space
NO_SPACE = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))


def one_line(error: BaseException) -> str | None:
    """What a command line prints of an error without a traceback; ``None``: it may be a bug, and keeps its own."""
    if isinstance(error, OSError) and error.errno in NO_SPACE and not isinstance(error, DiskFull):
        return f"a file could not be written: {error}"  # by another package
    of_an_extra = isinstance(error, ModuleNotFoundError) and "sb3_relax[" in str(error)
    if of_an_extra or isinstance(error, (UsageError, AgentNotFound, DiskFull, WorkerDied)):
        return str(error)
    return None


#: longer lists are not printed
MAX_LISTED = 40


class UnknownName(UsageError):
    """A name of an environment, algorithm, key or command that does not exist."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest of the names known, to follow the one given in an error message."""
    # case is the commonest slip, and difflib counts every letter of it
    by_lower = {candidate.lower(): candidate for candidate in known}
    nearest = [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=3)]
    return f", did you mean {' or '.join(map(repr, nearest))}?" if nearest else ": none has a similar name."


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> UnknownName:
    """The error for a name that is not among those known.

    :param kind: what it should have been, as "environment"
    :param name: what was given
    :param known: what exists; listed where that is readable
    :param where: how to see the whole list, where it is too long to print
    :return: the error, to be raised

    Example::

        raise unknown_name("algorithm", "relax2c", ["laxa2c", "relaxa2c"])
        # UnknownName: unknown algorithm 'relax2c', did you mean 'relaxa2c'? Known: laxa2c, relaxa2c
    """
    known = sorted(known)
    message = f"unknown {kind} {name!r}{did_you_mean(name, known)}"
    if len(known) <= MAX_LISTED:
        message += f" Known: {', '.join(known)}"
    elif where:
        message += f" {where}"
    return UnknownName(message)


def names_of_advised(error: str, algorithms: Mapping[str, type]) -> str:
    """``--algo`` of the classes that an error says to use, to follow its message.

    :param error: the message
    :param algorithms: name → class
    :return: as " (--algo relaxa2c)"; empty where the error names none of these classes
    """
    advice = error.partition("use sb3_relax.")[2]
    names = [name for name, algorithm in algorithms.items() if re.search(rf"\b{algorithm.__name__}\b", advice)]
    return f" (--algo {' or '.join(names)})" if names else ""


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:  # not a number: text, as YAML reads 1e-3
        return False


def require_rate(name: str, value: float, low: float = 0.0) -> float:
    """A learning rate or a coefficient, now: finite, and not below ``low`` (a rate of 0 switches learning off).

    :raises UsageError: otherwise
    """
    if not (_is_finite(value) and low <= value):
        allowed = "a finite number" if math.isinf(low) else f"a finite number >= {low:g}"
        raise UsageError(f"{name} must be {allowed} (or a schedule of such numbers); got {value!r}")
    return value


def require_schedule(name: str, rate: float | Callable[[float], float], low: float = 0.0) -> None:
    """A learning rate or a coefficient, or a schedule that starts with one.

    :raises UsageError: otherwise
    """
    require_rate(name, rate(1.0) if callable(rate) else rate, low)


def require_within(name: str, value: Any, low: float, high: float = math.inf) -> None:
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


def _first_bad(array: np.ndarray, steps: bool) -> str | None:
    """Where an array of ``[n_steps, n_envs, ...]`` (or ``[n_envs, ...]``) is not finite."""
    if array.dtype.kind != "f":
        return None
    finite = np.isfinite(array)
    if finite.all():
        return None
    index = np.argwhere(~finite)[0]
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


def constructor_arguments(cls: type) -> set[str]:
    """Names that a class's constructor takes, those its ``**kwargs`` passes on to its bases included."""
    names: set[str] = set()
    for base in cls.__mro__:
        own = vars(base).get("__signature__")
        if own is None and "__init__" not in vars(base):
            continue
        own = own or signature(vars(base)["__init__"])
        parameters = [parameter for name, parameter in own.parameters.items() if name != "self"]
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return {name for name in names if not name.startswith("_")}


def refuse_unknown_arguments(cls: type, given: Iterable[str], known: Iterable[str]) -> None:
    """Python's own error would name the class that wrote the constructor, and not the one that was called.

    :param given: keywords that the constructor has no parameters for
    :param known: those of them that it takes all the same
    :raises TypeError: naming the first that it does not take, and the nearest that it does
    """
    for name in given:
        if name not in known:
            nearest = did_you_mean(name, constructor_arguments(cls))
            raise TypeError(f"{cls.__name__}() got an unexpected keyword argument {name!r}{nearest}")
