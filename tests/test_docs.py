"""README and the documentation: the site builds, links lead somewhere, examples run, tables say what the classes do."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import sb3_relax
from sb3_relax import RELAXA2C, estimators
from sb3_relax.control_variates import CONTROL_VARIATES
from sb3_relax.policy_gradient import UPDATE_RULES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
#: what is read: README, CONTRIBUTING, SECURITY and every page, by their paths
OF_THE_ROOT = (README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md")
READ = {str(path.relative_to(ROOT)): path for path in (*OF_THE_ROOT, *sorted(DOCS.rglob("*.md")))}
#: its applications learn to the end
GALLERY = "docs/gallery.md"

#: page → algorithm → which column says what it takes
PAGES = {
    "laxa2c": {"LAXA2C": 1},
    "relaxa2c": {"RELAXA2C": 1},
    "relaxa2c_mask": {"MaskableRELAXA2C": 1},
    "relaxa2c_hybrid": {"HybridRELAXA2C": 1},
    "recurrent": {"RecurrentLAXA2C": 1, "RecurrentRELAXA2C": 2},
    "relaxa2c_mask_recurrent": {"MaskableRecurrentRELAXA2C": 1},
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
    if page in ("relaxa2c_mask", "recurrent", "relaxa2c_mask_recurrent"):
        pytest.importorskip("sb3_contrib")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built strictly."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_of_the_markup_is_left_over(site):
    pages = [path for path in site.rglob("*.html") if path.name != "404.html"]
    assert len(pages) == len(READ) - 1 + len(list((DOCS / "examples").glob("*.py")))
    for page in pages:
        text = page.read_text()
        prose = re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)  # code may well have docstrings
        assert not re.search(r":(class|meth|func|attr|param|raises)\b[^<]*:|&lt;!-- |<!-- table: ", prose), page
        # a table that Markdown did not see as one
        assert not re.search(r"^\|.*\|$", text, re.MULTILINE), page
    assert "1/(K-1) Σ_k" in (site / "estimators.html").read_text()


def test_the_site_opens_from_the_disk(site):
    """It searches without a server, and fetches nothing from elsewhere; and it says which version it is of."""
    assert (site / "search" / "search_index.js").read_text().startswith("var __index = ")
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert re.search(r'<script src="[^"]*assets/iframe-worker\.js"', text), page
        assert not re.search(r"<(script|img|source|iframe)\b[^>]* src=[\"']?(https?:)?//", text), page
        assert not re.search(r"<link\b[^>]* href=[\"']?(https?:)?//", text), page
        assert f"sb3_relax {sb3_relax.__version__}" in text, page


def heading_anchors(path):
    """As GitHub and MkDocs make them of a page's headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", READ)
def test_relative_links_lead_somewhere(page):
    path = READ[page]
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http://", "https://"))]
    assert links or page != "README.md"
    for link in links:
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{page}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in heading_anchors(target), f"{page}: {link}"


def test_readme_is_read_in_minutes():
    lines = README.read_text().splitlines()
    assert len(lines) <= 250
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


def python_examples(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A folder with the agent that README's quick start saves, for the examples that go on from there."""
    monkeypatch.chdir(tmp_path)
    RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu").save("relaxa2c_cartpole")


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page == GALLERY else ())
        for page, path in READ.items()
        if python_examples(path)
    ],
)
def test_a_pages_examples_run(page):
    for package in ("sb3_contrib", "onnx", "onnxruntime", "tensorboard", "sklearn", "scipy"):
        pytest.importorskip(package)
    for example in python_examples(READ[page]):
        smaller = re.sub(r"\b(5|10|50|100|150)_000\b", "200", example)
        # what trains, trains for a moment
        assert smaller != example or ".learn(" not in example or "learn(1_000" in example
        exec(compile(smaller, page, "exec"), {})


def test_the_gallerys_applications_are_short():
    applications = python_examples(READ[GALLERY])
    assert len(applications) == 5
    assert all(len(application.splitlines()) < 60 for application in applications)


def test_readme_has_its_examples():
    assert len(python_examples(README)) == 4


def test_the_table_of_hyperparameters_is_what_the_constructor_takes(tools):
    from scripts.tables import hyperparameters

    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| (.+) \|$", hyperparameters.table(), re.MULTILINE)
    taken = inspect.signature(RELAXA2C).parameters
    own = [name for name, parameter in taken.items() if parameter.kind is parameter.KEYWORD_ONLY]
    assert [name for name, _, _ in rows] == own
    assert all(repr(taken[name].default) == default and len(meaning) > 20 for name, default, meaning in rows)
    assert hyperparameters.table() in (DOCS / "control_variate.md").read_text()


def test_readmes_five_arguments_have_their_defaults():
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", README.read_text(), re.MULTILINE)
    assert len(rows) == 5
    parameters = inspect.signature(RELAXA2C).parameters
    for name, default in rows:
        assert eval(default.strip("`")) == parameters[name].default, name


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_sb3_contribs_order(page):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    assert re.findall(r"^##+ (.+)$", text, re.MULTILINE) == ORDER


@pytest.mark.parametrize("page", PAGES)
def test_can_i_use_says_what_the_class_takes(page):
    needs_contrib(page)
    text = (ROOT / "docs" / f"{page}.md").read_text()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\|.*[✔❌].*$", text, re.MULTILINE)]
    spaces = ["Discrete", "Box", "MultiDiscrete", "MultiBinary", "Dict"]
    assert [row[0] for row in rows] == [*spaces, *(["Tuple"] if page == "relaxa2c_hybrid" else [])]
    for algorithm, column in PAGES[page].items():
        # but for what no environment has: what becomes of its actions inside
        takes = {space.__name__ for space in getattr(sb3_relax, algorithm).action_spaces} - {"FlatActions"}
        assert {row[0] for row in rows if row[column] == "✔️"} == takes


def test_every_public_name_of_the_estimators_has_an_entry():
    entries = re.findall(
        r"^::: sb3_relax\.estimators\.(\w+)$", (ROOT / "docs" / "estimators.md").read_text(), re.MULTILINE
    )
    assert sorted(entries) == sorted({*estimators.__all__} - {"ESTIMATORS"})


@pytest.mark.parametrize(
    ("registry", "names"), [("CONTROL_VARIATES", CONTROL_VARIATES), ("UPDATE_RULES", UPDATE_RULES)]
)
def test_every_entry_of_a_registry_has_a_row(registry, names):
    text = (DOCS / "control_variate.md").read_text()
    (rows,) = re.findall(rf"^\| name in `{registry}` \|.*\n\|---\|---\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert sorted(re.findall(r'^\| `"(\w+)"` \|', rows, re.MULTILINE)) == sorted(names)


def test_a_pages_tables_and_pictures(tools):
    from mkdocs.exceptions import PluginError

    def filled(markdown, page="results/some.md"):
        return tools[1].on_page_markdown(markdown, SimpleNamespace(file=SimpleNamespace(src_uri=page)))

    page = filled("before\n<!-- table: learning of LAXA2C -->\nafter")
    assert page.startswith("before\n| environment")
    assert page.endswith("|\nafter")
    # its environments, the baseline beside it, and nothing of RELAXA2C, which has it in its name
    assert "| LAXA2C |" in page
    assert "| A2C (ĉ = 0) |" in page
    assert "CartPole" not in page
    # a table of README, and one of a page below docs/
    assert filled("<!-- table: summary -->").startswith("| task")
    assert filled("<!-- table: bench -->").startswith("| case")
    for wrong, message in (
        ("<!-- table: learnin -->", "no page has a table 'learnin'; did you mean 'learning'?"),
        ("<!-- table: learning of SAC -->", "the table 'learning' has no row of SAC"),
    ):
        with pytest.raises(PluginError, match=re.escape(message)):
            filled(wrong)
    # pictures of the repository keep their path in the site; those of docs/ and elsewhere stay as they are
    assert filled("![a b](../../agents/a.gif)") == "![a b](../agents/a.gif)"
    assert filled("![](../agents/a.gif)", "zoo.md") == "![](agents/a.gif)"
    for kept in ("![](../assets/a.png)", "![](assets/a.png)", "![](https://x.org/../a.png)", "[text](../../a.md)"):
        assert filled(kept) == kept
    # links to what becomes a page lead to the page; a script's page itself links the script
    assert filled("[a](examples/a.py), [b](examples/b.py)", "index.md") == "[a](examples/a.md), [b](examples/b.md)"
    assert filled("[a](../examples/a.py)") == "[a](../examples/a.md)"
    assert filled("[a](../CONTRIBUTING.md#set-up)", "index.md") == "[a](contributing.md#set-up)"
    assert filled("[a](../../CONTRIBUTING.md)") == "[a](../contributing.md)"
    assert filled("[a](../SECURITY.md)", "index.md") == "[a](security.md)"
    assert filled("[a.py](a.py)", "examples/a.md") == "[a.py](a.py)"


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
