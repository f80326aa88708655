"""MkDocs hooks: what the pages take from README.md and docs/examples, so that nothing is written twice.

In a page, ``<!-- readme: HEADING -->`` stands for that section of README.md, ``<!-- table: NAME -->`` for the table
that scripts/make_tables.py writes there, and ``<!-- table: NAME of ALGORITHM -->`` for its rows of the environments on
which that algorithm was run. Pictures of README.md and the scripts of docs/examples, as pages, are added to the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
INCLUDE = re.compile(r"^<!-- (readme|table): (.+?)(?: of (\w+))? -->$", re.MULTILINE)


def section(heading: str) -> str:
    """The body of a section of README.md, up to the next heading of its level or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n", README, re.MULTILINE)
    if found is None:
        raise PluginError(f"README.md has no heading {heading!r}; it has {re.findall(r'^#+ (.+)$', README, re.M)}")
    end = re.compile(rf"^#{{1,{len(found[1])}}} ", re.MULTILINE).search(README, found.end())
    return README[found.end() : end.start() if end else None].strip()


def table(name: str, algorithm: str | None = None) -> str:
    """A table of README.md; with ``algorithm``, its rows of the environments (cases) that have a row of it."""
    found = re.search(rf"<!-- table:{re.escape(name)} -->\n(.*?)\n<!-- /table:{re.escape(name)} -->", README, re.DOTALL)
    if found is None:
        raise PluginError(f"README.md has no table {name!r}; it has {re.findall(r'<!-- table:(.+?) -->', README)}")
    if algorithm is None:
        return found[1]
    head, rule, *rows = found[1].splitlines()
    cells = [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]
    # the algorithm is in the second column beside its environment, or in the first beside its settings
    names = {row[0] for row in cells if any(re.match(rf"{algorithm}\b", cell) for cell in row[:2])}
    if not names:
        raise PluginError(f"README.md's table {name!r} has no row of {algorithm}")
    return "\n".join([head, rule, *(row for row, texts in zip(rows, cells, strict=True) if texts[0] in names)])


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in a page's includes."""

    def include(match: re.Match[str]) -> str:
        kind, name, algorithm = match.groups()
        return section(name) if kind == "readme" else table(name, algorithm)

    return INCLUDE.sub(include, markdown)


def on_files(files: Files, config: Any) -> Files:
    """Add README.md's pictures, where README.md finds them, and a page for every example."""
    for path in dict.fromkeys(re.findall(r"!\[.*?\]\((?!http)(.+?)\)", README)):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for script in sorted((ROOT / "docs" / "examples").glob("*.py")):
        notebook = jupytext.read(script)
        notebook.metadata.clear()
        page = jupytext.writes(notebook, fmt="md")
        note = f"\nThe script: [{script.name}]({script.name})\n"
        files.append(File.generated(config, f"examples/{script.stem}.md", content=page + note))
    return files
