"""Selectors beside the gates, on a table whose right answer is known."""

import json
import sys

import numpy as np
import pytest
import torch

from sb3_relax.tasks.gates.black_box import BlackBox
from sb3_relax.tasks.gates.problem import FeatureGates, Gates, GatesConfig
from sb3_relax.tasks.gates.rows import Rows
from sb3_relax.tasks.records import write_record
from scripts.run import selectors
from scripts.tables import gates as tables


@pytest.fixture(scope="module")
def problem():
    """Four features, of which the first and the third make the label."""
    random = torch.Generator().manual_seed(0)
    found = FeatureGates(GatesConfig(dataset="wine", cost=0.03))

    def rows(size):
        x = torch.randn(size, 4, generator=random, dtype=torch.float64)
        return Rows(x, ((x[:, 0] > 0).long() + (x[:, 2] > 0).long()))

    found.rows = {part: rows(150) for part in found.rows}
    found.classifier, found.model, found.features = BlackBox(found.rows["fit"]), Gates(4), 4
    return found


def test_other_rows_are_standardised_as_those_that_are_seen(problem):
    x, label, scaler = selectors.seen(problem)
    rows = [problem.rows["fit"], problem.rows["gates"]]
    assert np.array_equal(x, scaler.transform(np.concatenate([part.x.numpy() for part in rows])))
    assert np.allclose(x.mean(0), 0)
    assert np.allclose(x.std(0), 1)
    assert np.array_equal(label, np.concatenate([part.label.numpy() for part in rows]))


@pytest.mark.parametrize("name", selectors.SELECTORS)
def test_every_selector_finds_the_features_that_matter(name, problem):
    assert selectors.SELECTORS[name](problem, 2) == [0, 2]
    three = selectors.SELECTORS[name](problem, 3)
    assert len(set(three)) == 3
    assert {0, 2} < set(three)


def test_the_best_of_all_subsets(problem):
    costs = selectors.costs_of_all(problem)
    assert len(costs) == 16
    assert costs.min() == selectors.cost_of(problem, [0, 2])
    assert np.isclose(costs[-1], selectors.cost_of(problem, [0, 1, 2, 3]))


def test_right_features_are_better_by_every_measure(problem):
    right, wrong = (selectors.measured(problem, features) for features in ([0, 2], [1, 3]))
    assert right["cost"] < wrong["cost"] - 0.1
    assert right["accuracy"] > wrong["accuracy"] + 0.3
    assert right["refitted"] > wrong["refitted"] + 0.3


def test_the_command_and_its_tables(tmp_path, monkeypatch):
    settings = {"dataset": "wine", "cost": 0.01, "features": [0, 6], "cost_of_mode": 0.3}
    runs = [{"estimator": name, "seed": seed, **settings} for name in FeatureGates.cases for seed in (0, 1)]
    write_record(tmp_path / "record.json", {"runs": runs})
    record = str(tmp_path / "record.json")
    monkeypatch.setattr(sys, "argv", ["selectors", "--record", record, "--output", str(tmp_path)])
    monkeypatch.setattr(selectors, "costs_of_all", lambda problem: np.array([0.1, 0.2, 0.4]))
    selectors.main()
    written = json.loads((tmp_path / "gates" / "selectors.json").read_text())
    assert {row["by"] for row in written["rows"]} == {*FeatureGates.cases, *selectors.SELECTORS}
    assert written["best"][0]["subsets"] == 3
    assert {mode["better"] for mode in written["best"][0]["modes"]} == {2}
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    lines = tables.selectors_table("wine").splitlines()
    assert len(lines) == 3 + len(selectors.SELECTORS)
    assert lines[2].startswith("| gates, rloo |")
    assert tables.subsets_table().splitlines()[-1].startswith("| best of 3 | f = 0.1000")
