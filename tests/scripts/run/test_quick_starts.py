"""What is said of a quick start was found with the code that stands on the page."""

import json
import re

import pytest

from scripts.records import RESULTS, ROOT
from scripts.run import quick_starts
from scripts.tables import quick_starts as sentences

RECORDS = sorted((RESULTS / "quick_starts").glob("*.json"))


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_the_record_is_of_the_code_on_the_page(file):
    record = json.loads(file.read_text())
    again = f"run python -m scripts.run.quick_starts --pages {record['page']} --output scripts/results"
    assert record["code"] == quick_starts.quick_start(record["page"]), again
    assert len(record["runs"]) >= 5
    assert all(len(run["printed"]) == 1 for run in record["runs"])  # one line, rather than thousands


def test_readmes_quick_start_learns_the_task():
    record = json.loads((RESULTS / "quick_starts" / "README.json").read_text())
    for run in record["runs"]:
        assert float(re.search(r"mean return of 20 episodes: (.+)", run["printed"][0])[1]) >= 475


@pytest.mark.parametrize("page", ["docs/index.md", "docs/relaxa2c.md"])
def test_the_same_code_stands_on_other_pages(page):
    assert f"```python\n{quick_starts.quick_start('README.md')}```" in (ROOT / page).read_text()


def test_a_run_says_what_it_printed_and_took():
    found = quick_starts.run("import sb3_relax\nprint('mean return:', 3)\nsum(range(5_000_000))")
    assert found["printed"] == ["mean return: 3"]
    assert 0 < found["processor_seconds"] < found["seconds"] + 1


def test_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "quick_starts").mkdir()
    runs = [
        {"printed": ["mean return of 20 episodes: 498"], "processor_seconds": 12.4, "seconds": 30},
        {"printed": ["mean return of 20 episodes: 500"], "processor_seconds": 15.6, "seconds": 30},
    ]
    (tmp_path / "quick_starts" / "README.json").write_text(json.dumps({"page": "README.md", "runs": runs}))
    monkeypatch.setattr(sentences, "RESULTS", tmp_path)
    assert sentences.sentence("README.md") == (
        "Run 2 times, it printed a mean return of 498 to 500 (median 499) and took 12 to 16 seconds of one core."
    )
