"""What train() logs is what it says."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.policy_gradient.update_rules import PolicyOptimizerStep
from tests.helpers import TinyEnv


def logged(model):
    """What the last update has recorded."""
    found = {}
    record = model.logger.record
    model.logger.record = lambda key, value, *args, **kwargs: (found.__setitem__(key, value), record(key, value))[1]
    model.train()
    return found


@pytest.mark.parametrize("ent_coef", [0.0, 1.0])
def test_the_losses_are_those_of_the_policy_before_the_step(ent_coef):
    model = RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), n_steps=20, seed=0, device="cpu", ent_coef=ent_coef)
    model.learn(20)
    with th.no_grad():
        data = next(model.rollout_buffer.get())
        values, log_prob, entropy = model.policy.evaluate_actions(data.observations, data.actions.flatten())
    found = logged(model)
    assert found["train/policy_loss"] == pytest.approx(-(data.advantages * log_prob).mean().item(), rel=1e-4)
    assert found["train/entropy_loss"] == pytest.approx(-entropy.mean().item(), rel=1e-4)
    assert found["train/value_loss"] == pytest.approx(((data.returns - values.flatten()) ** 2).mean().item(), rel=1e-4)


def test_the_entropy_counts_at_a_coefficient_of_1():
    """The gradient of the entropy is applied at every coefficient but 0."""
    steps = []
    for ent_coef in (0.0, 1.0):
        settings = dict(n_steps=20, seed=0, device="cpu", ent_coef=ent_coef, cv_learning_rate=0.0)
        model = RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), **settings).learn(20)
        steps.append(th.cat([weight.detach().flatten() for weight in model.policy.parameters()]))
    assert not th.equal(*steps)


class Noting(PolicyOptimizerStep):
    def step(self, *args):
        self.note = "something happened"
        return super().step(*args)


def test_what_a_rule_notes_is_said_once():
    model = RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), update_rule=Noting, device="cpu").learn(5)
    said = []
    model.logger.info = said.append
    model.train()
    assert said == ["something happened"]
    assert model.update_rule.note == ""


def test_the_standard_deviation_of_box_actions():
    env = TinyEnv(spaces.Box(-1.0, 1.0, (2,), np.float32))
    model = LAXA2C("MlpPolicy", env, device="cpu").learn(5)
    assert logged(model)["train/std"] == pytest.approx(model.policy.log_std.exp().mean().item())
