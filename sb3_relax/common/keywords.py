"""A constructor's arguments by name: which there are, and a clear error for one that there is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, Concatenate, ParamSpec

from sb3_relax.common.names import did_you_mean

P = ParamSpec("P")


def constructor_arguments(cls: type) -> set[str]:
    """Names that a class's constructor takes, those its ``**kwargs`` passes on to its bases included."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(signature(vars(base)["__init__"]).parameters.values())[1:]
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return {name for name in names if not name.startswith("_")}


def refuses_unknown_arguments(init: Callable[Concatenate[Any, P], None]) -> Callable[Concatenate[Any, P], None]:
    """A base's ``__init__`` whose ``TypeError`` names the class that was called, and the nearest argument.

    Python's own would name the base. ``inspect.signature`` and type checkers see ``init`` as it was written.
    """
    known = set(signature(init).parameters)

    @wraps(init)
    def checked(self: Any, *args: P.args, **kwargs: P.kwargs) -> None:
        for name in kwargs:
            if name not in known:
                nearest = did_you_mean(name, constructor_arguments(type(self)))
                raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {name!r}{nearest}")
        init(self, *args, **kwargs)

    return checked
