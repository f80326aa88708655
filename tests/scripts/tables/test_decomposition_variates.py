"""The table of what each control variate takes of which part."""

import pytest

from scripts.tables import decomposition_variates


def number(value):
    return {"value": value, "standard_error": 0.0, "low": value, "high": value}


def row(name, future, action, **others):
    parts = {"future": number(future), "action": number(action), "noise": number(0.0), "state": number(1.0)}
    ratios = dict.fromkeys(("ratio", "rollouts_ratio", "beside_state"))
    return {"name": name, "gae_lambda": 0.5, "total": number(10.0), **parts, **ratios, "share": 0.5, **others}


@pytest.fixture
def recorded(monkeypatch):
    def with_records(*records):
        class Recorded:
            def __init__(self, folder):
                pass

            def read(self):
                return records

        monkeypatch.setattr(decomposition_variates, "Records", Recorded)

    return with_records


def test_over_whole_rollouts(recorded):
    """A line for a policy, and a column for a control variate, which not every policy has."""
    late, early = [row("V(s)", 4.0, 5.0), row("ĉ(s)", 4.0, 2.5)], [row("V(s)", 4.0, 5.0), row("model", 1.0, 2.0)]
    late[1]["rollouts_ratio"], early[1]["rollouts_ratio"] = number(0.25), number(0.5)
    late += [each | {"gae_lambda": 1.0} for each in late]
    recorded({"env": "Walk-v0", "timesteps": 1_000, "rows": late}, {"env": "Walk-v0", "timesteps": 10, "rows": early})
    heads, _, *rows = decomposition_variates.over_rollouts("any").splitlines()
    assert heads == "| environment | steps | λ | `model` | ĉ(s) |"
    assert rows == [
        "| Walk-v0 | 10 | 0.5 | 0.50 [0.50, 0.50] | — |",
        "| Walk-v0 | 1,000 | 0.5 | — | 0.25 [0.25, 0.25] |",
        "| Walk-v0 | 1,000 | 1 | — | 0.25 [0.25, 0.25] |",
    ]


def test_what_is_left_of_each_part(recorded):
    rows = [row("V(s)", 4.0, 5.0), row("ĉ(s)", 4.0, 2.5), row("trajectory+relax", 1.0, 2.0, later_share=0.9)]
    recorded({"env": "Walk-v0", "timesteps": 1_000, "rows": rows})
    state, both = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in decomposition_variates.table().splitlines()[2:]
    )
    assert state[:7] == ["Walk-v0", "1,000", "0.5", "0.40, 0.50, 0.10", "ĉ(s)", "1.00", "0.50"]
    assert state[-1] == "0.50, —"
    assert both[4:7] == ["`trajectory+relax`", "0.25", "0.40"]
    assert both[-1] == "0.50, 0.90"
