"""The floor under an iteration, with few repeats."""

import json

import pytest

from scripts.bench.floor import PARTS
from tests.scripts.command import script


@pytest.mark.slow
def test_floor(tmp_path):
    script("bench.floor", "--repeats", 2, "--output", tmp_path)
    rows = json.loads((tmp_path / "floor.json").read_text())["rows"]
    assert len(rows) == 6
    for row in rows:
        assert row["floor"] == pytest.approx(sum(row["microseconds"][part] for part in PARTS), rel=0.2)
        assert all(ratio > 1 for ratio in row["over_floor"].values())
