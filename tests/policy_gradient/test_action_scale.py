"""initial_action_std: how widely Box actions are tried before training."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_relax import LAXA2C, RELAXA2C, HybridRELAXA2C
from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.action_scale import half_widths
from sb3_relax.policy_gradient.flat_actions import FlatActions
from tests.helpers import TinyEnv

LARGEST = np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Box(-2, 2, (1,)), [2]),
        (spaces.Box(np.float32([0, -3]), np.float32([1, 3])), [0.5, 3]),
        (spaces.Box(-np.inf, np.inf, (2,)), [1, 1]),
        (spaces.Box(-LARGEST, LARGEST, (1,)), [1]),
        (spaces.Box(0, np.inf, (1,)), [1]),
        (spaces.Box(3, 3, (1,)), [1]),
        (spaces.Discrete(3), []),
        (FlatActions(spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(-5, 5, (2,)))), [5, 5]),
    ],
)
def test_half_widths(space, expected):
    np.testing.assert_array_equal(half_widths(space), expected)


def test_actions_have_that_std():
    model = LAXA2C("MlpPolicy", "Pendulum-v1", initial_action_std=0.25, seed=0)
    assert model.policy.log_std.requires_grad
    observation = th.zeros(20_000, 3)
    drawn = model.policy(observation)[0]
    assert drawn.std().item() == pytest.approx(0.25 * 2, rel=0.03)
    plain = LAXA2C("MlpPolicy", "Pendulum-v1", seed=0)
    assert plain.policy.log_std.item() == 0
    for name, weights in plain.policy.named_parameters():
        assert name == "log_std" or th.equal(weights, model.policy.state_dict()[name])


def test_a_saved_agent_keeps_what_it_learned(tmp_path):
    model = LAXA2C("MlpPolicy", "Pendulum-v1", initial_action_std=0.25, seed=0).learn(50)
    model.save(tmp_path / "agent")
    loaded = LAXA2C.load(tmp_path / "agent")
    assert loaded.initial_action_std == 0.25
    assert loaded.policy.log_std.item() == model.policy.log_std.item() != np.float32(np.log(0.5))


def test_discrete_actions_have_none():
    with_it, without = (RELAXA2C("MlpPolicy", "CartPole-v1", initial_action_std=s, seed=0) for s in (0.5, None))
    for a, b in zip(with_it.policy.parameters(), without.policy.parameters(), strict=True):
        assert th.equal(a, b)


def test_of_actions_of_several_parts_the_boxes_have_it():
    env = TinyEnv(spaces.Dict(aim=spaces.Box(-4, 4, (2,)), fire=spaces.Discrete(2)))
    model = HybridRELAXA2C("MlpPolicy", env, initial_action_std=0.5)
    np.testing.assert_allclose(model.policy.log_std.detach().numpy(), np.log([2, 2]), rtol=1e-6)


def test_what_contradicts_it_is_refused():
    with pytest.raises(UsageError, match="leave out one of them"):
        LAXA2C("MlpPolicy", "Pendulum-v1", initial_action_std=0.5, policy_kwargs={"log_std_init": -1})
    with pytest.raises(UsageError, match="with use_sde=True the standard"):
        LAXA2C("MlpPolicy", "Pendulum-v1", initial_action_std=0.5, use_sde=True)
    with pytest.raises(UsageError, match="initial_action_std must be"):
        LAXA2C("MlpPolicy", "Pendulum-v1", initial_action_std=0)


def test_the_preset_leaves_it_out_for_what_is_given():
    given = LAXA2C("MlpPolicy", "Pendulum-v1", preset="fast", policy_kwargs={"log_std_init": -1.5})
    assert given.policy.log_std.item() == -1.5
    LAXA2C("MlpPolicy", "Pendulum-v1", preset="fast", use_sde=True)
    own_networks = LAXA2C("MlpPolicy", "Pendulum-v1", preset="fast", policy_kwargs={"net_arch": [8]})
    assert own_networks.policy.log_std.exp().item() == pytest.approx(0.8)


class OfTheState(ActorCriticPolicy):
    """A standard deviation that is a layer's output has no initial value to set."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        del self.log_std
        self.log_std_net = th.nn.Linear(self.mlp_extractor.latent_dim_pi, get_action_dim(self.action_space))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _get_action_dist_from_latent(self, latent_pi):
        return self.action_dist.proba_distribution(self.action_net(latent_pi), self.log_std_net(latent_pi))


def test_a_policy_that_makes_it_of_the_state_keeps_its_own():
    LAXA2C(OfTheState, "Pendulum-v1", preset="fast", n_steps=8).learn(8)
