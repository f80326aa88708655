"""The demo, on a small budget and on its own."""

import json
import re

import pytest

from sb3_relax import RELAXA2C
from tests.scripts.command import script


def test_demo_on_a_small_budget_says_that_it_did_not_get_there(tmp_path):
    done = script("run.demo", "--timesteps", 600, "--output", tmp_path, check=False)
    assert done.returncode == 1
    assert re.search(r"95% interval\) after [\d,]+ steps in \d+ s; threshold 475 NOT reached", done.stdout)
    assert (tmp_path / "learning_curve.png").stat().st_size > 10_000
    assert len(json.loads((tmp_path / "evaluation.json").read_text())["evaluation"]) == 100
    assert RELAXA2C.load(tmp_path / "relaxa2c_cartpole.zip", device="cpu").num_timesteps > 0
    assert list((tmp_path / "tensorboard").glob("*/events*"))


@pytest.mark.slow
def test_demo_reaches_the_threshold(tmp_path):
    done = script("run.demo", "--output", tmp_path)
    assert "threshold 475 reached" in done.stdout
