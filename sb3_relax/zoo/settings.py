"""Files of settings in YAML, read without running anything that they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from sb3_relax.errors import UsageError

#: bytes that such a file has at most
MOST_BYTES = 2**20
#: values that it has at most, each as often as an alias repeats it: a few lines of aliases can stand for billions
MOST_VALUES = 10**6


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds: numbers, text, lists and mappings alone.

    :raises UsageError: in one line, where there is no such file, or it is no YAML, or asks for too much memory
    """
    return _read(path, lambda loader, node: loader.construct_document(node))


def nodes_in(path: str | Path) -> list[yaml.Node]:
    """All that a YAML file holds, with the tags that say what would be made of it, which is not.

    :raises UsageError: as :func:`read_yaml`
    """
    return _read(path, lambda loader, node: list(_below(node))) or []


def _read(path: str | Path, made: Callable[[yaml.SafeLoader, yaml.Node], Any]) -> Any:
    try:
        content = Path(path).read_bytes()
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has {len(content):,} bytes, and settings have at most {MOST_BYTES:,}")
        loader = yaml.SafeLoader(content.decode("utf-8"))
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _values(node, {}) > MOST_VALUES:
                raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")
            return made(loader, node)
        finally:
            loader.dispose()
    except MemoryError:
        raise
    except Exception as error:  # PyYAML raises any of Python's own, by what the text promises to be
        raise UsageError(f"hyper-parameters cannot be read from {path}: {' '.join(str(error).split())}") from error


def _below(node: yaml.Node) -> Iterator[yaml.Node]:
    yield node
    if isinstance(node, yaml.CollectionNode):
        for item in node.value:
            for child in item if isinstance(item, tuple) else (item,):
                yield from _below(child)


def _values(node: yaml.Node, known: dict[int, int | None]) -> int:
    """The values below a node, each as often as it is repeated.

    :param known: of the nodes that were counted; ``None`` of those that are being counted
    :raises ValueError: for a value that holds itself
    """
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise ValueError("a value holds itself, by an alias")
        return count
    known[id(node)] = None
    if isinstance(node, yaml.MappingNode):
        count = 1 + sum(_values(key, known) + _values(value, known) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        count = 1 + sum(_values(value, known) for value in node.value)
    else:
        count = 1
    known[id(node)] = count
    return count
