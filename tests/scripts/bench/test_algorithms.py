"""The benchmark against A2C, with few repeats."""

import json

import pytest

from tests.scripts.command import script


@pytest.mark.slow
def test_bench(tmp_path):
    script("bench.algorithms", "--repeats", 2, "--output", tmp_path)
    record = json.loads((tmp_path / "bench.json").read_text())
    assert len(record["speed"]) == 6
    assert all(0.3 < row["ratio"] < 3 for row in record["speed"])
    assert record["core_imports_sb3"] is False
