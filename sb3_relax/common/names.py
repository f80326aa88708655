"""Errors for a name that does not exist: what does, and the nearest."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from sb3_relax.common.errors import UsageError

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
