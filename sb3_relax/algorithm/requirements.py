"""What an algorithm takes, and the errors that name the one to use instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium import spaces

from sb3_relax.catalogue import HYBRID, POLICY_FAMILIES, family_of, takers
from sb3_relax.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

#: what SB3's policies act in
KNOWN_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def require_action_space(cls: Any, action_space: gymnasium.Space) -> None:
    """Actions that an algorithm takes.

    :param cls: with ``action_spaces`` and ``policy_base``
    :raises UsageError: (a ``ValueError``) naming the class to use instead
    """
    if isinstance(action_space, cls.action_spaces):
        return
    accepted = ", ".join(kind.__name__ for kind in cls.action_spaces)
    advice = "flatten it to one of them (for Box use LAXA2C, for the discrete ones RELAXA2C)"
    if isinstance(action_space, (spaces.Dict, spaces.Tuple)):
        without = "" if cls.policy_base is None else ", which has neither masks nor a memory"
        advice = f"use sb3_relax.{takers(action_space, HYBRID)[0]} instead{without}"
    elif isinstance(action_space, KNOWN_SPACES):
        # of its own family of policies where there is one
        others = takers(action_space, cls.policy_base) or takers(action_space, None)
        advice = f"use sb3_relax.{others[0]} instead"
    raise UsageError(f"{cls.__name__} takes {accepted} action spaces; got {action_space}: {advice}")


def require_policy_family(cls: Any, policy_class: type | None) -> None:
    """A policy whose methods take what the algorithm hands them. By name, so that sb3-contrib need not be there.

    :param cls: with ``policy_base``
    :param policy_class: ``None`` where it is not known yet, as in load()
    :raises UsageError: naming the algorithm to use instead
    """
    if policy_class is None or not isinstance(policy_class, type):
        return
    family = family_of(policy_class)
    if cls.policy_base is not None and cls.policy_base not in {base.__name__ for base in policy_class.__mro__}:
        raise UsageError(
            f"{cls.__name__} takes policies that derive from {_home(cls.policy_base)} {cls.policy_base}; "
            f"got {policy_class}"
        )
    if family not in (None, cls.policy_base):
        raise UsageError(f"{cls.__name__} does not take {policy_class}: use {_named(takers(None, family))}")


def unknown_policy(cls: Any, name: str) -> UsageError:
    """The error for a policy's name that an algorithm does not have.

    :param cls: with ``policy_aliases``
    """
    message = f"{cls.__name__} has no policy {name!r}; it has {', '.join(cls.policy_aliases)}"
    for family, word in POLICY_FAMILIES.items():
        if word in name:
            message += f". For {_home(family)} policies use {_named(takers(None, family))}"
    return UsageError(message)


def _home(family: str) -> str:
    """Whose a family of policies is."""
    return "sb3_relax.relaxa2c_hybrid's" if family == HYBRID else "sb3-contrib's"


def _named(names: Iterable[str]) -> str:
    """As an error names them: "sb3_relax.RecurrentLAXA2C or RecurrentRELAXA2C"."""
    return f"sb3_relax.{' or '.join(names)}"
