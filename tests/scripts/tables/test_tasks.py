"""Tables of attention and the memory, against cases worked by hand."""

import pytest

from sb3_relax.tasks.records import write_record
from scripts.tables import tasks


def run(estimator, seed, curve, rate=0.01):
    settings = {"calls": 300, "batch_size": 128, "learning_rate": rate, "costs": "each"}
    variance = {state: {"own": 1.0, "nvil": 2.0} for state in ("early", "late")}
    return {
        **{"estimator": estimator, "seed": seed, **settings},
        **{"curve": {"calls": [0, 100, 300], "recall": curve}, "test": {"recall": curve[-1]}, "variance": variance},
    }


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "RESULTS", tmp_path)
    runs = [run("relax", 0, [0, 0.5, 0.8]), run("relax", 1, [0, 0.5, 0.9])]
    runs += [run("nvil", 0, [0, 0.6, 0.7]), run("nvil", 1, [0, 0.5, 0.7])]
    write_record(tmp_path / "memory" / "record.json", {"task": "memory", "runs": runs})
    tuning = [run("relax", 9, [0, 0.3, 0.3], 0.1), run("relax", 9, [0, 0.6, 0.6]), run("nvil", 9, [0, 0.6, 0.6], 0.1)]
    write_record(tmp_path / "memory" / "tuning" / "record.json", {"task": "memory", "runs": tuning})


@pytest.mark.usefixtures("results")
def test_tables_by_hand():
    relax, nvil = tasks.task_table("memory").splitlines()[2:]
    assert relax.startswith("| relax | 0.533 ± 0.212 | 0.850 ± 0.635 | 0.500 ± 0.000 |")
    assert nvil.startswith("| nvil | 0.508 ")
    (row,) = tasks.paired_table("memory").splitlines()[2:]
    # areas .517 and .550 less .533 and .483
    assert row == "| relax less nvil | 0.025 ± 0.529 | -0.050 at 100 | 1 of 2 |"


@pytest.mark.usefixtures("results")
def test_the_best_rate_is_bold():
    assert tasks.rates_table("memory").splitlines()[2:] == ["| relax | **0.500** | 0.250 |", "| nvil | — | **0.500** |"]
