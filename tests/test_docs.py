"""The documentation builds, its examples run, and its tables of spaces are what the classes take."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import sb3_relax
from sb3_relax import estimators

ROOT = Path(__file__).resolve().parent.parent

#: page → algorithm → which column says what it takes
PAGES = {
    "laxa2c": {"LAXA2C": 1},
    "relaxa2c": {"RELAXA2C": 1},
    "relaxa2c_mask": {"MaskableRELAXA2C": 1},
    "recurrent": {"RecurrentLAXA2C": 1, "RecurrentRELAXA2C": 2},
}
#: sb3-contrib's order of a page
ORDER = [
    "When to use",
    "Notes",
    "Can I use?",
    "Example",
    "Results",
    "How to replicate the results",
    "Parameters",
    "Policies",
]


@pytest.fixture
def tools():
    """What scripts/ adds to MkDocs."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("jupytext")
    from scripts.docs import docstrings, hooks

    return docstrings, hooks


def needs_contrib(page):
    if page in ("relaxa2c_mask", "recurrent"):
        pytest.importorskip("sb3_contrib")


def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (*PAGES, "estimators", "examples/own_estimator"):
        text = (tmp_path / f"{page}.html").read_text()
        # nothing of the docstrings' markup, nor of the pages' own, is left over
        assert not re.search(r":(class|meth|func|attr|param|raises)\b[^<]*:|&lt;!-- (readme|table)", text), page
    assert "1/(K-1) Σ_k" in (tmp_path / "estimators.html").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_sb3_contribs_order(page):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    assert re.findall(r"^##+ (.+)$", text, re.MULTILINE) == ORDER


@pytest.mark.parametrize("page", PAGES)
def test_can_i_use_says_what_the_class_takes(page):
    needs_contrib(page)
    text = (ROOT / "docs" / f"{page}.md").read_text()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\|.*[✔❌].*$", text, re.MULTILINE)]
    assert [row[0] for row in rows] == ["Discrete", "Box", "MultiDiscrete", "MultiBinary", "Dict"]
    for algorithm, column in PAGES[page].items():
        takes = {space.__name__ for space in getattr(sb3_relax, algorithm).action_spaces}
        assert {row[0] for row in rows if row[column] == "✔️"} == takes


@pytest.mark.parametrize("page", PAGES)
def test_a_pages_example_runs(page, tmp_path, monkeypatch):
    needs_contrib(page)
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    smaller = re.sub(r"\b(5|10)_000\b", "200", example)
    assert smaller != example
    exec(compile(smaller, f"{page}.md", "exec"), {})


def test_every_public_name_of_the_estimators_has_an_entry():
    entries = re.findall(
        r"^::: sb3_relax\.estimators\.(\w+)$", (ROOT / "docs" / "estimators.md").read_text(), re.MULTILINE
    )
    assert sorted(entries) == sorted({*estimators.__all__} - {"ESTIMATORS"})


def test_readme_parts(tools):
    from mkdocs.exceptions import PluginError

    hooks = tools[1]
    page = hooks.on_page_markdown("before\n<!-- table: learning of LAXA2C -->\nafter")
    assert page.startswith("before\n| environment")
    assert page.endswith("|\nafter")
    # its environments, the baseline beside it, and nothing of RELAXA2C, which has it in its name
    assert "| LAXA2C |" in page
    assert "| A2C (ĉ = 0) |" in page
    assert "CartPole" not in page
    assert hooks.section("Which defaults, and why") in hooks.section("What it does: measured")
    assert "## Export" not in hooks.section("rl-zoo: train, tune, enjoy")
    for wrong, message in (
        ("<!-- readme: No such -->", "no heading 'No such'"),
        ("<!-- table: learnin -->", "no page has a table 'learnin'; did you mean 'learning'?"),
        ("<!-- table: learning of SAC -->", "the table 'learning' has no row of SAC"),
    ):
        with pytest.raises(PluginError, match=re.escape(message)):
            hooks.on_page_markdown(wrong)


def test_docstrings_to_markdown(tools):
    text = """A :class:`~sb3_relax.estimators.RLOO`, or :meth:`finish`.

:param x: one line
    and another
:raises ValueError: never

Example::

    call(x)

    again(x)

Last words."""
    assert (
        tools[0].to_markdown(text)
        == """A <autoref identifier="sb3_relax.estimators.RLOO" optional><code>RLOO</code></autoref>, or `finish`.

Example:

```python
call(x)

again(x)
```

Last words.

:param x: one line
    and another
:raises ValueError: never"""
    )
