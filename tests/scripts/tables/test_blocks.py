"""Tables are written into the blocks of README.md and of every page below docs/."""

import re

import pytest

from scripts.tables import blocks
from scripts.tables.__main__ import stale_pages


def block(name, body="old"):
    return f"<!-- table:{name} -->\n{body}\n<!-- /table:{name} -->"


@pytest.fixture
def repository(tmp_path):
    """A README with one table, and a page two folders down with another and the first one once more."""
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "README.md").write_text(f"# Title\n\n{block('speed')}\n\nend\n")
    (tmp_path / "docs" / "results" / "more.md").write_text(f"{block('memory')}\n{block('speed')}\n")
    (tmp_path / "docs" / "plain.md").write_text("nothing\n")
    return tmp_path


TABLES = {"speed": lambda: "| fast |", "memory": lambda: "| a |\n| b |"}


def test_every_page_with_a_block_is_filled(repository):
    stale = stale_pages(repository, TABLES)
    assert {str(page.relative_to(repository)): text for page, text in stale.items()} == {
        "README.md": f"# Title\n\n{block('speed', '| fast |')}\n\nend\n",
        "docs/results/more.md": block("memory", "| a |\n| b |") + f"\n{block('speed', '| fast |')}\n",
    }
    for page, text in stale.items():
        page.write_text(text)
    assert stale_pages(repository, TABLES) == {}
    assert blocks.body_of("memory", repository) == "| a |\n| b |"


def test_a_table_without_a_block_is_an_error(repository):
    with pytest.raises(blocks.BlockError, match=re.escape("has <!-- table:cost --> … <!-- /table:cost -->")):
        stale_pages(repository, TABLES | {"cost": str})


def test_a_block_without_a_table_is_an_error_that_names_the_nearest(repository):
    page = repository / "docs" / "plain.md"
    page.write_text(block("sped"))
    with pytest.raises(blocks.BlockError, match=r"plain\.md has a block for a table 'sped'.*did you mean 'speed'\?"):
        stale_pages(repository, TABLES)
    page.write_text(block("xyz"))
    with pytest.raises(blocks.BlockError, match="there are memory, speed"):
        stale_pages(repository, TABLES)


@pytest.mark.parametrize(("text", "needed"), [("<!-- table:a -->\n", "/table:a"), ("x <!-- /table:a -->", "table:a")])
def test_a_block_that_is_not_whole_is_an_error(repository, text, needed):
    (repository / "docs" / "plain.md").write_text(text)
    with pytest.raises(blocks.BlockError, match=rf"plain\.md.*stands alone; the block needs <!-- {needed} -->"):
        stale_pages(repository, TABLES)


def test_a_page_takes_a_table_from_wherever_it_lies(repository, monkeypatch):
    pytest.importorskip("mkdocs")
    pytest.importorskip("jupytext")
    from scripts.docs import hooks

    monkeypatch.setattr(hooks, "ROOT", repository)
    assert hooks.table("memory") == "old"
