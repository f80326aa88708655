"""Blocks of a page that tables are written into: ``<!-- table:NAME -->`` … ``<!-- /table:NAME -->``.

Pages are README.md and every Markdown file below docs/. A table may be placed in several of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

BLOCK = re.compile(
    r"(?P<start><!-- table:(?P<name>\S+) -->\n)(?P<body>.*?)(?P<end><!-- /table:(?P=name) -->)", re.DOTALL
)
MARK = re.compile(r"<!-- (/?)table:(\S+) -->")


class BlockError(ValueError):
    """A block that is not as it should be, or a name that no block has."""


def pages(root: Path) -> list[Path]:
    """The files that may hold blocks."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def names_in(page: Path) -> list[str]:
    """The names of a page's blocks, in their order.

    :raises BlockError: where a block is not closed, or closed without having been opened
    """
    text = page.read_text()
    for slash, name in MARK.findall(BLOCK.sub("", text)):
        other = f"<!-- table:{name} -->" if slash else f"<!-- /table:{name} -->"
        raise BlockError(f"{page}: <!-- {slash}table:{name} --> stands alone; the block needs {other} as well")
    return [block["name"] for block in BLOCK.finditer(text)]


def body_of(name: str, root: Path) -> str:
    """What stands in the block of that name, on the first page that has one.

    :raises BlockError: where no page has it
    """
    seen: list[str] = []
    for page in pages(root):
        for block in BLOCK.finditer(page.read_text()):
            if block["name"] == name:
                return block["body"].rstrip("\n")
            seen.append(block["name"])
    raise BlockError(f"no page has a table {name!r}{nearest(name, seen)}")


def filled(text: str, bodies: dict[str, str]) -> str:
    """A page's text with ``bodies`` in its blocks."""
    return BLOCK.sub(lambda block: f"{block['start']}{bodies[block['name']]}\n{block['end']}", text)


def require_agreement(tables: Iterable[str], root: Path) -> None:
    """:raises BlockError: where a block is of no table, or a table has no block on any page."""
    tables, placed = set(tables), set()
    for page in pages(root):
        for name in names_in(page):
            if name not in tables:
                raise BlockError(f"{page} has a block for a table {name!r} that is not made{nearest(name, tables)}")
            placed.add(name)
    if missing := sorted(tables - placed):
        marks = ", ".join(f"<!-- table:{name} --> … <!-- /table:{name} -->" for name in missing)
        raise BlockError(f"neither README.md nor a page of docs/ has {marks}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about a wrong name: which one may have been meant, or which there are."""
    known = sorted({*known})
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
