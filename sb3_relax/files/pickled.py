"""What a pickle says, read without running it.

A pickle is a program: it names functions of any module, and whoever unpickles it calls them. Here nothing that it names
is looked up. A :class:`Named` stands for each, which only remembers what it would have been called with.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np

from sb3_relax.files.archive import NotWhole

#: what NumPy's arrays are pickled by, in its versions 1 and 2
RECONSTRUCT = frozenset({"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"})
FROM_BUFFER = frozenset({"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"})
SCALAR = frozenset({"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"})
#: all that pickles of arrays and numbers name
OF_ARRAYS = RECONSTRUCT | FROM_BUFFER | SCALAR | {"numpy.ndarray", "numpy.dtype"}
#: letters of the types of numbers that are read
NUMBERS = "biuf"


class Named:
    """In the place of what would have been made by a class or a function that a pickle names.

    ``name`` is that of the class or function, with its module; ``args`` is what it would have been called with;
    ``state`` is what would have become its attributes; ``items`` is what would have been put into it.
    """

    name: str

    args: tuple[Any, ...]
    state: Any
    items: list[Any]

    # a pickle may make an instance without __init__()
    def __new__(cls, *args: Any, **_: Any) -> Named:
        self = super().__new__(cls)
        self.args, self.state, self.items = args, None, []
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        """As a list's."""
        self.items.append(value)


class _Reader(pickle.Unpickler):
    """Looks nothing up."""

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content))
        self.names: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if not full.isprintable():
            raise NotWhole(f"it names {full!r}, which no module has")
        self.names.add(full)
        return type("Named", (Named,), {"name": full})


def read_pickle(content: bytes) -> tuple[Any, set[str]]:
    """What a pickle says, and the names of all that it would have looked up. No code of it is run.

    Lists, dicts, text and numbers are themselves; everything else is a :class:`Named`. :func:`array_of` makes an array
    of one.

    :param content: of the file
    :raises NotWhole: for what is no pickle, or is damaged

    Example::

        said, names = read_pickle(Path("vecnormalize.pkl").read_bytes())
        said.name  # "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"
        said.state["clip_obs"]  # 10.0
    """
    try:
        for operation, argument, _ in pickletools.genops(content):
            if operation.name.startswith("EXT"):  # by a number, which another pickle may have given a function
                raise NotWhole("it names something by a number alone")
            # where it puts a value; the unpickler makes as many places
            if operation.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > len(content):
                raise NotWhole("it asks for more memory than any pickle of its length needs")
        reader = _Reader(content)
        return reader.load(), reader.names
    except (NotWhole, MemoryError):
        raise
    except Exception as error:  # of pickle, by where it is damaged
        raise NotWhole(f"{type(error).__name__}: {error}".splitlines()[0]) from error


def array_of(said: Any) -> np.ndarray:
    """The array of numbers that a :class:`Named` stands for.

    :param said: of :func:`read_pickle`
    :raises NotWhole: where it stands for something else
    """
    try:
        if said.name in RECONSTRUCT:
            _, shape, dtype, by_columns, content = said.state
            return _array(content, _dtype(dtype), shape, "F" if by_columns else "C")
        if said.name in FROM_BUFFER:
            content, dtype, shape, order = said.args
            return _array(content, _dtype(dtype), shape, order)
        if said.name in SCALAR:
            dtype, content = said.args
            return _array(content, _dtype(dtype), (), "C")
    except NotWhole:
        raise
    except Exception as error:  # by where it is not what an array is
        raise NotWhole(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    raise NotWhole(f"{said.name} is no array")


def require_numbers(said: Any) -> None:
    """Every array in what a pickle says is of numbers, as long as it should be, and nothing else is named.

    NumPy itself would take the bytes of an array of objects for their addresses.

    :param said: of :func:`read_pickle`
    :raises NotWhole: for anything else
    """
    left, seen = [said], set()
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            left += [*part, *part.values()]
        elif isinstance(part, (list, tuple, set, frozenset)):
            left += part
        elif isinstance(part, Named):
            array_of(part)


def _array(content: bytes, dtype: np.dtype, shape: Any, order: Any) -> np.ndarray:
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise NotWhole(f"an array has {len(content):,} bytes, and should have shape {tuple(shape)} of {dtype}")
    return np.frombuffer(bytes(content), dtype).reshape(shape, order=order).copy()


def _dtype(said: Any) -> np.dtype:
    """Of the class of a number and, where that is longer than a byte, the order of its bytes."""
    code, (_, order, *of_parts) = said.args[0], said.state
    # what has parts, or names, is a record
    if said.name != "numpy.dtype" or code[0] not in NUMBERS or any(part is not None for part in of_parts[:3]):
        raise NotWhole(f"an array is of {code!r}, and not of numbers")
    return np.dtype(code).newbyteorder(order)
