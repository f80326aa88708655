"""Misspelled keyword arguments."""

import inspect

import pytest
from stable_baselines3 import A2C

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.errors import constructor_arguments


class Mine(RELAXA2C):
    def __init__(self, *args, own=1, **kwargs):
        super().__init__(*args, **kwargs)
        self.own = own


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        (RELAXA2C, "cv_learning_rat", "did you mean 'cv_learning_rate'"),
        (RELAXA2C, "n_relax", "did you mean 'n_relaxed'?"),
        (LAXA2C, "Gamma", "did you mean 'gamma'?"),
        (LAXA2C, "correction", "none has a similar name"),
        (Mine, "n_critc_steps", "did you mean 'n_critic_steps'"),
    ],
)
def test_the_error_names_the_class_that_was_called(kind, name, says):
    message = rf"^{kind.__name__}\(\) got an unexpected keyword argument '{name}'.*{says}"
    with pytest.raises(TypeError, match=message.replace("?", r"\?")):
        kind("MlpPolicy", "CartPole-v1", **{name: 1})


def test_signatures_can_still_be_read():
    parameters = inspect.signature(LAXA2C).parameters
    assert list(parameters)[:23] == list(inspect.signature(A2C).parameters)
    assert parameters["n_cv_steps"].default == 1
    assert not any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    assert inspect.signature(RELAXA2C).parameters["n_relaxed"].default == 1
    assert {"own", "n_relaxed", "cv_guard", "gamma", "env"} <= constructor_arguments(Mine)
    assert "own" in inspect.signature(Mine).parameters


def test_a_subclass_of_a_class_with_a_constructor_of_its_own():
    class More(Mine):
        pass

    assert inspect.signature(More) == inspect.signature(Mine)
