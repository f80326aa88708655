"""The table of what each control variate takes of which part."""

from scripts.tables import decomposition_variates


def number(value):
    return {"value": value, "standard_error": 0.0, "low": value, "high": value}


def row(name, future, action, **others):
    parts = {"future": number(future), "action": number(action), "noise": number(0.0), "state": number(1.0)}
    ratios = dict.fromkeys(("ratio", "rollouts_ratio", "beside_state"))
    return {"name": name, "gae_lambda": 0.5, "total": number(10.0), **parts, **ratios, "share": 0.5, **others}


def test_what_is_left_of_each_part(monkeypatch):
    rows = [row("V(s)", 4.0, 5.0), row("ĉ(s)", 4.0, 2.5), row("trajectory+relax", 1.0, 2.0, later_share=0.9)]
    record = {"env": "Walk-v0", "timesteps": 1_000, "rows": rows}

    class Recorded:
        def __init__(self, folder):
            pass

        def read(self):
            return [record]

    monkeypatch.setattr(decomposition_variates, "Records", Recorded)
    state, both = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in decomposition_variates.table().splitlines()[2:]
    )
    assert state[:7] == ["Walk-v0", "1,000", "0.5", "0.40, 0.50, 0.10", "ĉ(s)", "1.00", "0.50"]
    assert state[-1] == "0.50, —"
    assert both[4:7] == ["`trajectory+relax`", "0.25", "0.40"]
    assert both[-1] == "0.50, 0.90"
