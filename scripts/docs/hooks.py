"""MkDocs hooks: what the pages share with README.md and with each other, so that nothing is written twice.

- In a page, ``<!-- table: NAME -->`` stands for the table in the block of that name in README.md or in a
  page (scripts/tables/blocks.py), and ``<!-- table: NAME of ALGORITHM -->`` for its rows of the environments on which
  that algorithm was run.
- Pages show pictures of the repository by their path there, so that they are seen where the page is read as a file too.
- The scripts of docs/examples become pages, and so do CONTRIBUTING.md and SECURITY.md. Pages link the files
  themselves, so that the links lead somewhere where the page is read as a file, and in the site the links lead to the
  pages.
- The site's name has the package's version.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT))  # MkDocs loads this file by its path
from scripts.tables.blocks import BlockError, body_of, pages  # noqa: E402

INCLUDE = re.compile(r"^<!-- table: (\S+)(?: of (\w+))? -->$", re.MULTILINE)
#: a picture by its path from the page, where that leads out of docs/
OUTSIDE = re.compile(r"(!\[[^\]]*\]\()(\.\./[^)\s]+)\)")
#: a link from the repository's root to a page of docs/, or to a script that becomes one
INTO_DOCS = re.compile(r"\]\(docs/([^)\s]+)\.(?:md|py)\)")
#: a link from a page of docs/ to a script that becomes a page, or to a page of the repository's root
TO_SCRIPT = re.compile(r"(\]\((?:\.\./)*examples/\w+)\.py\)")
TO_ROOT = re.compile(r"(\]\((?:\.\./)*)\.\./(CONTRIBUTING|SECURITY)\.md\b")


def table(name: str, algorithm: str | None = None) -> str:
    """A table by its name; with ``algorithm``, its rows of the environments (cases) that have a row of it."""
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


def in_repository(page: str, link: str) -> str | None:
    """The path in the repository of a link that leads out of docs/ from ``page`` (a path in docs/), if it does."""
    path = normpath(PurePosixPath("docs", page).parent / link)
    return None if path.startswith(("docs/", "../")) else path


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Say which version is documented."""
    config.site_name += " " + (ROOT / "sb3_relax" / "version.txt").read_text().strip()
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures that pages show of the repository, under their path there, and the pages that lie elsewhere."""
    pictures = {
        in_repository(page.relative_to(DOCS).as_posix(), link)
        for page in pages(ROOT)[1:]
        for _, link in OUTSIDE.findall(page.read_text())
    }
    for path in sorted(picture for picture in pictures if picture is not None):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for script in sorted((DOCS / "examples").glob("*.py")):
        notebook = jupytext.read(script)
        notebook.metadata.clear()
        page = jupytext.writes(notebook, fmt="md")
        note = f"\nThe script: [{script.name}]({script.name})\n"
        files.append(File.generated(config, f"examples/{script.stem}.md", content=page + note))
    for name in ("CONTRIBUTING.md", "SECURITY.md"):
        content = INTO_DOCS.sub(r"](\1.md)", (ROOT / name).read_text())
        files.append(File.generated(config, name.lower(), content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fill in a page's tables, and let links and pictures of the repository lead to where these are in the site."""
    uri = page.file.src_uri

    def in_the_site(match: re.Match[str]) -> str:
        path = in_repository(uri, match[2])
        return match[0] if path is None else f"{match[1]}{relpath(path, PurePosixPath(uri).parent)})"

    filled = INCLUDE.sub(lambda match: table(match[1], match[2]), markdown)
    filled = TO_ROOT.sub(lambda match: f"{match[1]}{match[2].lower()}.md", TO_SCRIPT.sub(r"\1.md)", filled))
    return OUTSIDE.sub(in_the_site, filled)
