"""The algorithms by name: where each lives, and which actions and policies it takes.

It names no class, so that whatever needs to know which algorithm to use can ask it: the lazy imports of
:mod:`sb3_relax`, the errors that say which algorithm takes what another refuses, and the reading of saved agents.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One algorithm."""

    module: str  #: that defines it
    action_spaces: tuple[str, ...]  #: names of gymnasium's classes that it takes
    policy_base: str | None = None  #: the family of policies that it takes; ``None``: SB3's own


class Family(NamedTuple):
    """A family of policies beside SB3's own."""

    words: frozenset[str]  #: in its policies' names
    home: str  #: the package or module that has it
    module: str  #: of its policies


DISCRETE = ("Discrete", "MultiDiscrete", "MultiBinary")
#: FlatActions is what becomes of the others inside
MIXED = ("Dict", "Tuple", "FlatActions")
MASKABLE, RECURRENT = "MaskableActorCriticPolicy", "RecurrentActorCriticPolicy"
MASKABLE_RECURRENT, HYBRID = "MaskableRecurrentActorCriticPolicy", "HybridActorCriticPolicy"

#: class name → where and what. A new algorithm's one line
CATALOGUE: dict[str, Entry] = {
    "LAXA2C": Entry("sb3_relax.laxa2c", ("Box",)),
    "RELAXA2C": Entry("sb3_relax.relaxa2c", DISCRETE),
    "MaskableRELAXA2C": Entry("sb3_relax.relaxa2c_mask", DISCRETE, MASKABLE),
    "RecurrentLAXA2C": Entry("sb3_relax.laxa2c_recurrent", ("Box",), RECURRENT),
    "RecurrentRELAXA2C": Entry("sb3_relax.relaxa2c_recurrent", DISCRETE, RECURRENT),
    "MaskableRecurrentRELAXA2C": Entry("sb3_relax.relaxa2c_mask_recurrent", DISCRETE, MASKABLE_RECURRENT),
    "HybridRELAXA2C": Entry("sb3_relax.relaxa2c_hybrid", MIXED, HYBRID),
}
#: class name → what it is; each before the one it derives from
POLICY_FAMILIES: dict[str, Family] = {
    MASKABLE_RECURRENT: Family(
        frozenset({"Mask", "Lstm"}),
        "sb3_relax.relaxa2c_mask_recurrent",
        "sb3_relax.relaxa2c_mask_recurrent.policies",
    ),
    MASKABLE: Family(frozenset({"Mask"}), "sb3-contrib", "sb3_contrib.common.maskable.policies"),
    RECURRENT: Family(frozenset({"Lstm"}), "sb3-contrib", "sb3_contrib.common.recurrent.policies"),
    HYBRID: Family(frozenset({"Hybrid"}), "sb3_relax.relaxa2c_hybrid", "sb3_relax.relaxa2c_hybrid.policies"),
}


def load(name: str) -> Any:
    """The class of that name, imported now.

    :param name: a key of :data:`CATALOGUE`
    :raises ModuleNotFoundError: where the estimators alone are installed (sb3_relax_core), saying what to install
    """
    try:
        module = import_module(CATALOGUE[name].module)
    except ModuleNotFoundError as error:
        if error.name != CATALOGUE[name].module:
            raise
        raise ModuleNotFoundError(
            f"{name} is not in sb3_relax_core, which has the estimators alone: pip install sb3_relax", name=error.name
        ) from error
    return getattr(module, name)


def takers(action_space: object, policy_base: str | None) -> list[str]:
    """Names of the algorithms that take a space and a family of policies.

    :param action_space: a gymnasium space, or ``None`` for any
    :param policy_base: a key of :data:`POLICY_FAMILIES`; ``None`` for SB3's own policies
    """
    kinds = None if action_space is None else {kind.__name__ for kind in type(action_space).__mro__}
    return takers_of_kinds(kinds, policy_base)


def takers_of_kinds(kinds: set[str] | None, policy_base: str | None) -> list[str]:
    """The same, by the names of a space's class and that one's bases."""
    return [
        name
        for name, entry in CATALOGUE.items()
        if entry.policy_base == policy_base and (kinds is None or kinds & {*entry.action_spaces})
    ]


def family_of(policy_class: type | None) -> str | None:
    """The family of policies that a class belongs to, by name; ``None`` for SB3's own."""
    bases = {base.__name__ for base in getattr(policy_class, "__mro__", ())}
    return next((family for family in POLICY_FAMILIES if family in bases), None)


def family_by_module(module: str) -> str | None:
    """The family whose own policies a module has; ``None`` for SB3's own, and for modules of users'."""
    return next((name for name, family in POLICY_FAMILIES.items() if family.module == module), None)
