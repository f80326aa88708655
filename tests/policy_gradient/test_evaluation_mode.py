"""Training mode, as SB3 sets it but quicker: every module that takes it in a way of its own still does."""

import pytest
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_relax import RELAXA2C
from sb3_relax.policy_gradient.evaluation_mode import evaluation_mode, set_training_mode


class Frozen(nn.BatchNorm1d):
    """Stays in evaluation mode."""

    def train(self, mode=True):
        return super().train(False)


class Renaming(nn.Dropout):
    """Keeps its mode under another name."""

    training = property(lambda self: vars(self)["mode"], lambda self, mode: vars(self).update(mode=mode))


class Noting(ActorCriticPolicy):
    """Notes in which mode it was put."""

    def set_training_mode(self, mode):
        self.noted = mode
        super().set_training_mode(mode)


def policy_with(layer):
    policy = RELAXA2C("MlpPolicy", "CartPole-v1").policy
    policy.mlp_extractor.policy_net.append(layer)
    return policy


def replace_train(layer):
    layer.train = lambda mode=True: layer
    return layer


LAYERS = {
    "none": nn.Identity,
    "dropout": nn.Dropout,
    "inside another": lambda: nn.Sequential(nn.Dropout()),
    "scripted": lambda: th.jit.script(nn.Dropout()),
    "compiled": lambda: th.compile(nn.Dropout(), backend="eager"),
    "frozen": lambda: Frozen(64).eval(),
    "by a property": Renaming,
    "frozen in place": lambda: replace_train(nn.Dropout().eval()),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_every_module_is_in_the_mode_that_sb3_puts_it_in(layer):
    policy = policy_with(LAYERS[layer]())
    for mode in (True, False, True):
        policy.set_training_mode(mode)
        expected = [module.training for module in policy.modules()]
        policy.set_training_mode(not mode)
        set_training_mode(policy, mode)
        assert [module.training for module in policy.modules()] == expected
    assert policy.mlp_extractor.policy_net[-1].training == (not layer.startswith("frozen"))


def test_a_policy_that_sets_its_mode_itself_does():
    model = RELAXA2C(Noting, "CartPole-v1", n_steps=5)
    model.policy.noted = None
    model.learn(5)
    assert model.policy.noted is True
    seen = []
    model.policy.set_training_mode = seen.append
    model.learn(5)
    assert seen == [False, True]


class Failing(nn.Identity):
    """Cannot be put in evaluation mode."""

    def train(self, mode=True):
        if not mode:
            raise RuntimeError("stays in training mode")
        return super().train(mode)


def test_a_look_that_cannot_begin_leaves_every_mode_as_it_was():
    policy = policy_with(Failing())
    policy.set_training_mode(True)
    with pytest.raises(RuntimeError, match="stays in training mode"), evaluation_mode(policy):
        pass
    assert all(module.training for module in policy.modules())


def test_a_look_that_fails_leaves_every_mode_as_it_was():
    policy = policy_with(nn.Dropout())
    policy.set_training_mode(True)
    policy.action_net.eval()
    modes = [module.training for module in policy.modules()]
    with pytest.raises(ZeroDivisionError), evaluation_mode(policy):
        _ = 1 / sum(module.training for module in policy.modules())
    assert [module.training for module in policy.modules()] == modes
