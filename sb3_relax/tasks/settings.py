"""The settings of a run, and the random numbers that follow from them."""

from __future__ import annotations

import hashlib
from dataclasses import field
from typing import TypeVar

T = TypeVar("T")


def setting(default: T, description: str) -> T:
    """A field of :class:`Config`, which the command line describes in the same words."""
    return field(default=default, metadata={"help": description})


def key(*parts: object) -> int:
    """A seed that is a function of ``parts`` alone, and unlike any other's."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "little")
