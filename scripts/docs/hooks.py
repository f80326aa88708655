"""MkDocs hooks: what the pages take from elsewhere, so that nothing is written twice.

In a page, ``<!-- readme: HEADING -->`` stands for that section of README.md, ``<!-- table: NAME -->`` for the table
in the block of that name, wherever that lies (scripts/tables/blocks.py), and ``<!-- table: NAME of ALGORITHM -->`` for
its rows of the environments on which that algorithm was run. Pictures of README.md that lie outside of docs/, and the
scripts of docs/examples as pages, are added to the site.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # MkDocs loads this file by its path
from scripts.tables.blocks import BlockError, body_of  # noqa: E402

INCLUDE = re.compile(r"^<!-- (readme|table): (.+?)(?: of (\w+))? -->$", re.MULTILINE)
#: a picture of README.md, by its path there
PICTURE = re.compile(r"(!\[.*?\]\()((?!http).+?)(\))")


def readme() -> str:
    return (ROOT / "README.md").read_text()


def section(heading: str) -> str:
    """The body of a section of README.md, up to the next heading of its level or above."""
    text = readme()
    found = re.search(rf"^(#+) {re.escape(heading)}\n", text, re.MULTILINE)
    if found is None:
        raise PluginError(f"README.md has no heading {heading!r}; it has {re.findall(r'^#+ (.+)$', text, re.M)}")
    end = re.compile(rf"^#{{1,{len(found[1])}}} ", re.MULTILINE).search(text, found.end())
    return text[found.end() : end.start() if end else None].strip()


def table(name: str, algorithm: str | None = None) -> str:
    """A table of the pages; with ``algorithm``, its rows of the environments (cases) that have a row of it."""
    try:
        body = body_of(name, ROOT)
    except BlockError as error:
        raise PluginError(str(error)) from error
    if algorithm is None:
        return body
    head, rule, *rows = body.splitlines()
    cells = [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]
    # the algorithm is in the second column beside its environment, or in the first beside its settings
    names = {row[0] for row in cells if any(re.match(rf"{algorithm}\b", cell) for cell in row[:2])}
    if not names:
        raise PluginError(f"the table {name!r} has no row of {algorithm}")
    return "\n".join([head, rule, *(row for row, texts in zip(rows, cells, strict=True) if texts[0] in names)])


def placed_in_site(path: str) -> str:
    """Where the site has a picture that README.md has at ``path``."""
    return path.removeprefix("docs/")


def on_page_markdown(markdown: str, page: Any = None, **_: Any) -> str:
    """Fill in a page's includes."""
    up = "../" * page.file.src_uri.count("/") if page is not None else ""

    def include(match: re.Match[str]) -> str:
        kind, name, algorithm = match.groups()
        if kind == "table":
            return table(name, algorithm)
        return PICTURE.sub(lambda found: found[1] + up + placed_in_site(found[2]) + found[3], section(name))

    return INCLUDE.sub(include, markdown)


def on_files(files: Files, config: Any) -> Files:
    """Add README.md's pictures, where README.md finds them, and a page for every example."""
    for path in dict.fromkeys(path for _, path, _ in PICTURE.findall(readme())):
        if placed_in_site(path) == path:
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for script in sorted((ROOT / "docs" / "examples").glob("*.py")):
        notebook = jupytext.read(script)
        notebook.metadata.clear()
        page = jupytext.writes(notebook, fmt="md")
        note = f"\nThe script: [{script.name}]({script.name})\n"
        files.append(File.generated(config, f"examples/{script.stem}.md", content=page + note))
    return files
