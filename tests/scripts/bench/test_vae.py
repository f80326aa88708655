"""The speed of the VAE, with few rounds."""

import json

import pytest

from scripts.tables import vae as tables
from tests.scripts.command import script


@pytest.mark.slow
def test_bench(tmp_path):
    arguments = ("--rounds", 3, "--steps", 20, "--compiled", "rebar", "relax", "--output", tmp_path)
    script("bench.vae", *arguments)
    rows = json.loads((tmp_path / "vae" / "bench.json").read_text())["rows"]
    assert {row["model"] for row in rows} == {"linear1", "linear2", "nonlinear"}
    assert all(row["iterations_per_second"] > 1 for row in rows)
    assert all(row["ratio"] < 1.5 * row["target"] for row in rows if row["target"] and row["compiled"])
    assert all(row["over_plain"] < 1 for row in rows if row["case"] == "relax" and row["compiled"])
    assert "asked ≤ 2.5" in tables.bench_table(tmp_path / "vae")
