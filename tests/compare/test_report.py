"""The sentence of a comparison, and its curves."""

import numpy as np
import pytest

from sb3_relax.compare.episodes import Episodes
from sb3_relax.compare.report import POINTS, Side, curves, sentence, table


def side(label, returns):
    """Runs of ten episodes of ten steps, all of a run's of the same return."""
    steps = list(range(10, 101, 10))
    common = {"timesteps": 100, "seconds": 2.0, "variance_ratio": 0.5, "episode_steps": steps}
    return Side(label, [{**common, "episode_returns": [value] * 10} for value in returns])


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ([5, 6, 7, 8], [1, 2, 3, 4], "Ours had more return during training than Theirs (p = 0.029)."),
        ([1, 2, 3, 4], [5, 6, 7, 8], "Ours had less return during training than Theirs (p = 0.029)."),
        ([1, 2, 5, 6], [3, 4, 7, 8], "these seeds show no difference (p = 0.34)."),
        # medians that are level, and medians that say the opposite of what is tested
        ([1, 1, 1, 3, 3, 1, 2], [0, 1, 1, 0, 1, 0, 1], "Ours had more return during training than Theirs (p = 0.023)."),
        ([5, 5, 5, 5], [5, 5, 5, 5], "these seeds show no difference (p = 1)."),
        ([7, 8, 9], [1, 2, 3], "so few seeds cannot show a difference, whatever they find: take at least --seeds 4."),
    ],
)
def test_no_more_is_said_than_the_seeds_show(ours, theirs, said):
    assert sentence(side("Ours", ours), side("Theirs", theirs)).endswith(said)


def test_a_table_worked_by_hand():
    text = table([side("Ours", [5.0, 6.0, 7.0, 8.0]), side("A2C", [1.0, 2.0, 3.0, 4.0])], "Env-v0", "A2C")
    assert text.startswith("Env-v0, 100 steps, 4 seeds\n")
    ours, a2c = (line.split("|") for line in text.splitlines() if line.startswith(("| Ours", "| A2C")))
    assert ours[2].strip().startswith("6.5 [")
    assert ours[4].strip() == "1.00 [1.00, 1.00]"
    assert ours[5].strip() == "0.50 [0.50, 0.50]"
    assert ours[6].strip() == "2"
    assert a2c[4].strip() == "–"


def test_an_arm_with_a_single_run_that_has_not_failed():
    text = table([side("Ours", [5.0, 6.0, 7.0, 8.0]), side("A2C", [6.5])], "Env-v0", "A2C")
    assert text.startswith("Env-v0, 100 steps, 4 seeds or 1 seed\n")
    ours, a2c = (line.split("|") for line in text.splitlines() if line.startswith(("| Ours", "| A2C")))
    assert ours[4].strip() == "0.50"
    assert "[" in ours[2]
    assert a2c[2].strip() == "6.5"


def test_small_returns_are_told_apart():
    text = table([side("Ours", [0.0051, 0.0052, 0.0053, 0.0054]), side("A2C", [0.0011] * 4)], "Env-v0", "A2C")
    ours, a2c = (line.split("|") for line in text.splitlines() if line.startswith(("| Ours", "| A2C")))
    assert ours[2].strip().startswith("0.00525 [0.005")
    assert a2c[2].strip() == "0.00110 [0.00110, 0.00110]"


def test_episodes_keep_small_returns():
    episodes = Episodes()
    episodes.locals = {"infos": [{"episode": {"r": r}} for r in (0.00123456789, -1234.56789, 500.0)]}
    assert episodes._on_step()
    assert episodes.returns == [0.00123457, -1234.57, 500.0]


def test_curves_are_means_over_the_steps_since_the_last_point():
    rising = side("", [0])
    rising.records[0]["episode_returns"][:] = range(10)
    steps, returns = curves(rising.records)
    assert returns.shape == (1, POINTS)
    assert steps[-1] == 100
    # before an episode has ended, the first; at the end nearly always the one before the last
    assert returns[0, 0] == 0
    assert returns[0, -1] == pytest.approx(8.2)
    assert np.all(np.diff(returns[0]) >= 0)
