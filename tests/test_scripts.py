"""The scripts run end to end on small budgets, and what the repository says agrees with what it holds."""

import inspect
from pathlib import Path

import pytest
import yaml

import sb3_relax
from sb3_relax import LAXA2C, RELAXA2C

ROOT = Path(__file__).resolve().parent.parent


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == sb3_relax.__version__
    assert f"## {sb3_relax.__version__}" in (ROOT / "CHANGELOG.md").read_text()


ENVIRONMENT_KEYS = {"n_envs", "n_timesteps", "normalize", "policy"}


@pytest.mark.parametrize(
    ("file", "algorithm"), [("laxa2c", LAXA2C), ("relaxa2c", RELAXA2C), ("relaxa2c_lstm", RELAXA2C)]
)
def test_zoo_keys_are_constructor_arguments(file, algorithm):
    entries = yaml.safe_load((ROOT / "zoo_hyperparams" / f"{file}.yml").read_text())
    known = {*inspect.signature(algorithm).parameters}
    assert entries
    for env, entry in entries.items():
        assert set(entry) <= known | ENVIRONMENT_KEYS, env
