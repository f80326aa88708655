"""How cost grows: sizes that are there are not measured again, and the power of a size is what it is."""

import json

import pytest

from scripts.bench import growth
from tests.scripts.command import script


def test_the_steepest_power_is_that_between_neighbours():
    assert growth.steepest_power([1, 10, 100], [3, 30, 3000]) == pytest.approx(2)
    assert growth.steepest_power([2, 8, 32], [5, 5, 5]) == 0


@pytest.mark.parametrize("name", ["relaxed draws", "variables"])
def test_the_smallest_size_is_measured(name):
    smallest = growth.GROWTHS[name].sizes[0]
    row = growth.measure(name, smallest, 0.0)
    assert row["milliseconds"] > 0
    assert row["mb"] > 50


def test_a_record_is_added_to(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "LEAST", 1)
    arguments = ("--only", "bits", "--seconds", 0, "--output", tmp_path)
    (tmp_path / "growth.png").touch()
    made = []

    def measured(name, size, seconds):
        made.append((name, size))
        return {"milliseconds": 2.0 * size, "mb": 100.0}

    monkeypatch.setattr(growth, "in_a_process_of_its_own", measured)
    monkeypatch.setattr("sys.argv", ["growth", *map(str, arguments), "--largest", "16"])
    growth.main()
    assert made == [("bits", 1), ("bits", 16)]
    monkeypatch.setattr("sys.argv", ["growth", *map(str, arguments)])
    growth.main()
    assert made[2:] == [("bits", 256), ("bits", 1024), ("bits", 4096)]
    rows = json.loads((tmp_path / "growth.json").read_text())["rows"]
    assert [*rows["bits"]] == ["1", "16", "256", "1024", "4096"]
    assert (tmp_path / "growth.png").stat().st_size > 1000


@pytest.mark.slow
def test_growth(tmp_path):
    script("bench.growth", "--only", "relaxed draws", "--largest", 2, "--seconds", 0.1, "--output", tmp_path)
    assert len(json.loads((tmp_path / "growth.json").read_text())["rows"]["relaxed draws"]) == 2
