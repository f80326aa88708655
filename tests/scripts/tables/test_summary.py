"""README's summary has a row for every task, and counts a run that never gets there with its whole budget."""

from scripts.tables import summary


def record(solved_at, variances=((10, 1.0, 4.0), (20, 3.0, 4.0))):
    return {"solved_at": solved_at, "timesteps": 300, "threshold": 475, "variances": variances}


def test_a_run_that_never_gets_there_counts_with_its_budget():
    # mean of 100 and 300, and their 95% t-interval: 12.706 standard errors of 100
    assert summary.steps_to_threshold([record(100), record(None)]) == "200.0 ± 1,270.6 (1/2)"
    assert summary.steps_to_threshold(None) == "—"


def test_one_seed_has_no_interval():
    """None, rather than "± nan"."""
    assert summary.steps_to_threshold([record(100)]) == "100.0 (one seed) (1/1)"
    assert summary.row("Task-v0", "", {"relaxa2c": [record(100)]}) == (
        "| Task-v0 (475) | 100.0 (one seed) (1/1) | — | — | — | 0.50 (one seed) |"
    )


def test_a_row():
    algorithms = {"relaxa2c": [record(100), record(100)], "a2c": [record(300), record(300)]}
    assert summary.row("Task-v0", ", tuned", algorithms) == (
        "| Task-v0 (475), tuned | 100.0 ± 0.0 (2/2) | — | 300.0 ± 0.0 (2/2) | — | 0.50 |"
    )


def test_a_row_for_every_task_of_both_protocols():
    rows = summary.summary_table().splitlines()[2:]
    assert len(rows) == 8
    assert len(rows) <= 10
    assert sum(", all tuned alike |" in row for row in rows) == 2
