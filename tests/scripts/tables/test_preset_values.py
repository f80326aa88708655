"""Tables of the preset's values: which runs stand in which column, and which seeds are compared."""

from scripts.tables import preset_values


def record(env, seed, value, **hyperparams):
    return {
        "env": env,
        "seed": seed,
        "timesteps": 10,
        "episode_returns": [value],
        "episode_steps": [10],
        "hyperparams": {"n_timesteps": 10, **hyperparams},
    }


def with_records(monkeypatch, protocols):
    monkeypatch.setattr(preset_values, "grouped", lambda folder: {**protocols[folder]})


def test_a_value_has_a_column_wherever_its_runs_are(monkeypatch):
    first = {
        "Ant-v5": {"old": [record("Ant-v5", 1, 3.0)]},
        "Pendulum-v1": {"old": [record("Pendulum-v1", 1, 5.0), record("Pendulum-v1", 2, 7.0)]},
    }
    other = {
        "Pendulum-v1": {"new": [record("Pendulum-v1", 1, -2000.0)], "third": [record("Pendulum-v1", 1, 0.0)]},
        "Acrobot-v1": {"new": [record("Acrobot-v1", 1, 1.0)]},
    }
    with_records(monkeypatch, {"first": first, "other": other})
    table = preset_values.values_table({"A": ("first", "old"), "B": ("other", "new")})
    assert table.splitlines()[0] == "| task (steps) | A | B |"
    assert table.splitlines()[2:] == ["| Pendulum-v1 (10) | 6.0 (5.0, 7.0) | -2,000 (-2,000) |"]


def test_targets_stand_beside_the_number_of_variables(monkeypatch):
    arms = {
        arm: [record("Ant-v5", 1, value, target_kl=target)]
        for arm, value, target in zip(preset_values.TARGETS, (1.0, 2.0, 3.0), (0.002, 0.005, 0.016), strict=True)
    }
    with_records(monkeypatch, {"target_kl": {"Ant-v5": arms}})
    assert preset_values.targets_table().splitlines()[2:] == ["| Ant-v5 (10) | 8 | 1.0 (1.0) | 2.0 (2.0) | 3.0 (3.0) |"]


def test_before_and_after_are_compared_seed_by_seed(monkeypatch):
    before = {
        "Ant-v5": {"fast": [record("Ant-v5", seed, value) for seed, value in ((1, 1.0), (2, 2.0), (3, 30.0))]},
        "Swimmer-v5": {"fast": [record("Swimmer-v5", 1, 1.0)]},
    }
    after = {
        "Ant-v5": {"fast": [record("Ant-v5", 2, 7.0), record("Ant-v5", 1, 6.0)]},
        "Swimmer-v5": {"ppo": [record("Swimmer-v5", 1, 1.0)]},
    }
    with_records(monkeypatch, {"before": before, "after": after})
    table = preset_values.before_and_after_table(("64", "before", "fast"), ("32", "after", "fast"))
    head, _, *rows = table.splitlines()
    assert head == "| task (steps) | seeds | 64 | 32 | more, same seeds |"
    (row,) = rows
    assert row.startswith("| Ant-v5 (10) | 2 | ")
    assert row.endswith("| 5.0 ± 0.0 |")
