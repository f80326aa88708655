"""A griffe extension: the docstrings' reStructuredText as the Markdown that MkDocs reads."""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|meth|func|attr|data|mod):`(~?)([^`]+)`")
LITERAL = re.compile(r"^(.*):: *\n\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)
FIELD = re.compile(r"^:(?:param|return|returns|raises)\b[^:]*:.*(?:\n[^\n:].*)*\n*", re.MULTILINE)


def to_markdown(text: str) -> str:
    """Roles to links, literal blocks to fenced ones, fields (``:param x:``) to the end, where griffe looks for them."""
    text = LITERAL.sub(_fence, text + "\n")
    text = ROLE.sub(_link, text)
    fields = "".join(field.rstrip() + "\n" for field in FIELD.findall(text))
    return f"{FIELD.sub('', text).rstrip()}\n\n{fields}".rstrip()


def _fence(match: re.Match[str]) -> str:
    language = "python" if match[1].startswith("Example") else "text"
    return f"{match[1]}:\n\n```{language}\n{dedent(match[2]).strip()}\n```\n\n"


def _link(match: re.Match[str]) -> str:
    short, path = match.groups()
    name = path.rsplit(".", 1)[-1] if short else path
    if not path.startswith("sb3_relax."):
        return f"`{name}`"
    # optional: what has no place in the site stays plain code
    return f'<autoref identifier="{path}" optional><code>{name}</code></autoref>'


class Docstrings(griffe.Extension):
    """Every docstring through :func:`to_markdown`."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """As griffe has found an object."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
