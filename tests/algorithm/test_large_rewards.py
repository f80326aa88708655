"""Rewards whose squares are no float32: training goes on where A2C's does."""

import math

import pytest
import torch as th
from stable_baselines3 import A2C

from sb3_relax import LAXA2C, RELAXA2C, RecurrentRELAXA2C
from sb3_relax.control_variates.learned import fits_adam
from tests.helpers import ACTION_SPACES, TinyEnv, in_full


class Large(TinyEnv):
    """Rewards of one size up to a step, and of another from there on."""

    def __init__(self, action_space, size, from_step=0):
        super().__init__(action_space)
        self.size, self.from_step = size, from_step

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward * (self.size if self.total > self.from_step else 1.0), *rest


VARIANTS = {
    "defaults": ("discrete", {}),
    "box": ("box", {}),
    "in full": ("multibinary", dict(cv_guard=False)),
    "at the weights": ("discrete", dict(cv_objective="weights", correction="exact", n_cv_steps=2)),
    "in full, at the weights": ("box", dict(cv_objective="weights", cv_guard=False)),
    "of the state": ("multidiscrete", dict(cv_action_dependent=False)),
    "whole episodes": ("discrete", dict(n_episodes=2, n_critic_steps=3)),
    "another step": ("box", dict(use_rms_prop=False, normalize_advantage=True, ent_coef=0.1)),
}


def state(model):
    moments = [value for state in model.cv_optimizer.state.values() for value in state.values()]
    return [*model.policy.parameters(), *model.control_variate.state_dict().values(), *moments]


@pytest.mark.parametrize("size", [1e10, 1e19, 1e36])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_goes_on_and_everything_stays_finite(variant, size):
    space, kwargs = VARIANTS[variant]
    for from_step in (0, 25):  # from the first step on, or once ĉ has learned
        env = Large(ACTION_SPACES[space], size, from_step)
        model = (LAXA2C if space == "box" else RELAXA2C)("MlpPolicy", env, seed=0, device="cpu", **kwargs)
        before = [p.detach().clone() for p in model.policy.parameters()]
        model.learn(45)
        assert all(value.isfinite().all() for value in state(model))
        if size < 1e18:  # beyond, the norm that A2C clips by is infinite, and it steps by zero
            assert not all(map(th.equal, before, model.policy.parameters()))
        if variant != "another step":  # which has advantages of size 1
            scale = in_full(model).network.scale.item()
            assert 1e-3 < scale / size < 1e3


def test_what_a2c_does_is_done_where_the_control_variate_cannot_learn():
    """At 1e19 φ never moves from zero, so that the policy is A2C's."""
    env = lambda: Large(ACTION_SPACES["discrete"], 1e19)  # noqa: E731
    ours = RELAXA2C("MlpPolicy", env(), seed=0, device="cpu").learn(200).policy
    theirs = A2C("MlpPolicy", env(), seed=0, device="cpu").learn(200).policy
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert th.allclose(a, b, atol=1e-6)


def test_memory():
    env = Large(ACTION_SPACES["discrete"], 1e20)
    model = RecurrentRELAXA2C("MlpLstmPolicy", env, seed=0, device="cpu", policy_kwargs=dict(lstm_hidden_size=8))
    assert all(value.isfinite().all() for value in state(model.learn(100)))


def test_gradients_that_adam_can_square():
    assert fits_adam([th.ones(3), None, th.full((2,), 1e18)])
    for size in (1e20, math.inf, math.nan):
        assert not fits_adam([th.ones(3), th.full((2,), size)])
    assert fits_adam([th.full((2,), 1e20, dtype=th.float64)])
