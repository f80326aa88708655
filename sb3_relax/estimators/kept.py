"""Properties that are computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

import torch

T = TypeVar("T")


class kept(Generic[T]):
    """A property that is computed when it is first asked for, and kept.

    As ``functools.cached_property``, which torch.compile cannot trace in Python 3.10 and 3.11, where it takes a lock.
    """

    def __init__(self, compute: Callable[[Any], T]):
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> kept[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> kept[T] | T:
        if instance is None:
            return self
        value = self.compute(instance)
        setattr(instance, self.name, value)  # which is found before this descriptor from now on
        return value


class kept_of_theta(kept[T]):
    """The same of a latent, computed anew once θ has been changed in place, as optimizers change it.

    So a latent of a leaf may be used for several steps.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"_{name}_of_theta"

    @overload
    def __get__(self, instance: None, owner: type) -> kept_of_theta[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: Any, owner: type) -> kept_of_theta[T] | T:
        if instance is None:
            return self
        theta = instance.theta
        # what is traced is traced as a whole, and inference tensors count no versions
        version = None if torch.compiler.is_compiling() or theta.is_inference() else theta._version
        found: tuple[int | None, T] | None = getattr(instance, self.name, None)
        if found is None or found[0] != version:
            found = (version, self.compute(instance))
            setattr(instance, self.name, found)
        return found[1]
