"""Iterations of pairs of agents, with few repeats."""

import json

import pytest

from scripts.bench import pairs
from tests.scripts.command import script


def test_cases_are_added_to_a_record(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "TURN", 0.0)
    monkeypatch.setattr(pairs, "BITS", pairs.spaces.MultiBinary(3))
    for only in ("masked bits ÷ not", "natural gradient"):
        monkeypatch.setattr("sys.argv", ["pairs", "--repeats", "1", "--only", only, "--output", str(tmp_path)])
        pairs.main()
    rows = json.loads((tmp_path / "pairs.json").read_text())["rows"]
    assert [*rows] == ["masked bits ÷ not masked", "natural gradient ÷ plain"]
    for row in rows.values():
        ours, other = row["milliseconds"]
        assert row["ratio"] == pytest.approx(ours / other, rel=0.01)


def test_other_cases_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pairs", "--only", "hair"])
    with pytest.raises(SystemExit):
        pairs.main()
    assert "--only must be the beginning of one of masked bits" in capsys.readouterr().err


@pytest.mark.slow
def test_pairs(tmp_path):
    script("bench.pairs", "--repeats", 1, "--output", tmp_path)
    assert [*json.loads((tmp_path / "pairs.json").read_text())["rows"]] == [*pairs.PAIRS]
