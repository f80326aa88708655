"""The scripts run end to end on small budgets, and what the repository says agrees with what it holds."""

import inspect
import re
from pathlib import Path

import pytest
import yaml

import sb3_relax
from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.common.surrogate_a2c import SurrogateA2C

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
    known = {*inspect.signature(algorithm.__init__).parameters, *inspect.signature(SurrogateA2C.__init__).parameters}
    assert entries
    for env, entry in entries.items():
        assert set(entry) <= known | ENVIRONMENT_KEYS, env


def test_readme_names_every_argument_and_its_default():
    readme = (ROOT / "README.md").read_text()
    arguments = {
        name: parameter.default
        for cls in (SurrogateA2C, RELAXA2C)
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert len(arguments) == 12
    for name in arguments:
        assert f"`{name}`" in readme, name
    assert arguments["cv_learning_rate"] == 3e-3
    assert "| `cv_learning_rate` | 3e-3 |" in readme


def test_the_examples_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(examples) == 6
    for example in examples:
        exec(compile(example.replace("100_000", "200"), "README.md", "exec"), {})
