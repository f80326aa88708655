"""A copy of an agent to measure with: its own ĉ whatever is overridden, and nothing of the agent is touched."""

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.algorithm.copies import frozen_copy
from sb3_relax.control_variates import Guarded
from sb3_relax.errors import UsageError
from tests.helpers import ACTION_SPACES, TinyEnv, in_full


def trained(space="discrete", **kwargs):
    cls = LAXA2C if space == "box" else RELAXA2C
    model = cls("MlpPolicy", TinyEnv(ACTION_SPACES[space]), seed=0, device="cpu", **kwargs).learn(100)
    assert in_full(model).network.output_layer.weight.abs().max() > 0
    return model


def same(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    return ours.keys() == theirs.keys() and all(th.equal(value, theirs[name]) for name, value in ours.items())


OVERRIDES = {
    "nothing": {},
    "the batch": dict(n_steps=64, n_envs=3),
    "returns": dict(gamma=0.5, gae_lambda=0.5, normalize_advantage=True),
    "the fit of ĉ": dict(cv_learning_rate=0.1, n_cv_steps=4, cv_objective="weights"),
    "the noise of ĉ": dict(correction="relaxed", n_relaxed=3),
    "the critic's steps": dict(n_critic_steps=3),
}


@pytest.mark.parametrize("what", OVERRIDES)
def test_the_control_variate_is_kept_whatever_is_overridden(what):
    model = trained()
    copy = frozen_copy(model, 1, **OVERRIDES[what])
    assert same(copy.policy, model.policy)
    assert same(copy.control_variate, model.control_variate)
    assert model.control_variate.square > 0
    assert copy.control_variate.share == model.control_variate.share
    for name, value in OVERRIDES[what].items():
        assert getattr(copy, name) == value
    others = {"gamma", "gae_lambda", "n_steps", "n_cv_steps", "n_relaxed"} - OVERRIDES[what].keys()
    assert all(getattr(copy, name) == getattr(model, name) for name in others)


@pytest.mark.parametrize("guarded", [True, False])
def test_the_guard_is_put_on_or_taken_off(guarded):
    model = trained(cv_guard=not guarded)
    copy = frozen_copy(model, 1, cv_guard=guarded)
    assert isinstance(copy.control_variate, Guarded) == guarded
    assert same(in_full(copy), in_full(model))
    assert not guarded or copy.control_variate.share == 0


def test_whole_episodes_are_divided_as_the_agents_are():
    model = trained(n_episodes=2)
    assert frozen_copy(model, 1).expected_steps.average == model.expected_steps.average > 0


def test_a_fresh_control_variate_is_as_a_constructor_leaves_it():
    model = trained()
    copy = frozen_copy(model, 1, with_control_variate=False)
    assert same(copy.policy, model.policy)
    assert in_full(copy).network.output_layer.weight.abs().max() == 0
    assert copy.control_variate.share == in_full(copy).network.seen_batches == 0
    exact = frozen_copy(model, 1, with_control_variate=False, correction="exact")
    assert in_full(exact).network.log_temperature is None


def test_the_temperature_comes_and_goes():
    model = trained()
    exact = frozen_copy(model, 1, correction="exact")
    weights = {name: value for name, value in in_full(model).state_dict().items() if "temperature" not in name}
    assert all(th.equal(value, weights[name]) for name, value in in_full(exact).state_dict().items())
    again = frozen_copy(exact, 1, correction="relaxed", init_temperature=0.7)
    assert in_full(again).network.log_temperature.exp().item() == pytest.approx(0.7)
    assert th.equal(in_full(again).network.output_layer.weight, in_full(model).network.output_layer.weight)


@pytest.mark.parametrize(("before", "after"), [("coupled", "exact"), ("exact", "coupled")])
def test_an_agent_goes_on_with_another_correction(before, after, tmp_path):
    model = trained(correction=before)
    model.save(tmp_path / "agent")
    loaded = RELAXA2C.load(tmp_path / "agent", env=TinyEnv(ACTION_SPACES["discrete"]), correction=after)
    # each weight's moments are still its own
    for each in ("state_layer", "action_layer", "output_layer"):
        ours, theirs = (getattr(in_full(m).network, each).weight for m in (loaded, model))
        assert th.equal(loaded.cv_optimizer.state[ours]["exp_avg"], model.cv_optimizer.state[theirs]["exp_avg"])
    loaded.learn(50, reset_num_timesteps=False)


def test_another_control_variate_than_the_agents_is_refused(tmp_path):
    for overrides in (dict(cv_action_dependent=False), dict(control_variate="none")):
        with pytest.raises(UsageError, match=r"ĉ\(s\)|another control variate"):
            frozen_copy(trained(), 1, **overrides)
    model = trained(cv_action_dependent=False)
    with pytest.raises(UsageError, match="another control variate than this agent's"):
        frozen_copy(model, 1, cv_action_dependent=True)


def test_a_control_variate_of_another_size_is_refused_by_its_names():
    small = trained(policy_kwargs=dict(net_arch=dict(pi=[6], vf=[5], cv=[4])))
    large = trained(policy_kwargs=dict(net_arch=dict(pi=[6], vf=[5], cv=[8])))
    with pytest.raises(UsageError, match=r"of another size .*output_layer.weight is \[1, 4\], and here \[1, 8\]"):
        large.set_parameters(small.get_parameters())


@pytest.mark.parametrize("space", ["discrete", "box"])
def test_nothing_of_the_agent_is_touched(space):
    model = trained(space)
    streams = [th.get_rng_state(), model.noise_generator.get_state(), th.as_tensor(np.random.get_state()[1])]  # noqa: NPY002
    streams = [stream.clone() for stream in streams]
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    first, again, other = (frozen_copy(model, seed) for seed in (1, 1, 2))
    draws = [th.rand(4, generator=copy.noise_generator) for copy in (first, again, other)]
    assert th.equal(draws[0], draws[1])
    assert not th.equal(draws[0], draws[2])
    with th.no_grad():
        for parameter in (*first.policy.parameters(), *first.control_variate.parameters()):
            parameter.zero_()
    assert all(th.equal(value, model.policy.state_dict()[name]) for name, value in before.items())
    assert same(model.control_variate, again.control_variate)
    after = [th.get_rng_state(), model.noise_generator.get_state(), th.as_tensor(np.random.get_state()[1])]  # noqa: NPY002
    assert all(map(th.equal, streams, after))


@pytest.mark.parametrize(("env", "kind"), [("CartPole-v1", RELAXA2C), ("Pendulum-v1", LAXA2C)])
def test_an_agent_of_sb3s_gets_the_algorithm_of_its_actions(env, kind):
    model = A2C("MlpPolicy", env, seed=0, device="cpu", gamma=0.7)
    copy = frozen_copy(model, 1, n_steps=9)
    assert type(copy) is kind
    assert (copy.gamma, copy.n_steps) == (0.7, 9)
    assert same(copy.policy, model.policy)


OF_TRAINING = [
    dict(update_rule="kfac", target_kl=0.01),
    dict(critic_learning_rate=1e-3),
    dict(critic_learning_rate=1e-3, normalize_returns=True, critic_batch_size=3, normalize_advantage="running"),
    dict(n_critic_steps=3, critic_replay=3, critic_lambda=1.0),
    dict(preset="fast"),
]


@pytest.mark.parametrize("kwargs", OF_TRAINING)
def test_what_moves_the_policy_is_not_copied_and_does_not_stand_in_the_way(kwargs):
    model = trained(**kwargs)
    copy = frozen_copy(model, 1)
    assert same(copy.policy, model.policy)
    assert same(copy.control_variate, model.control_variate)
    assert (copy.update_rule_spec, copy.critic_learning_rate) == ("optimizer", None)
    assert (copy.normalize_returns, copy.critic_batch_size, copy.critic_replay) == (False, None, 1)
    assert (copy.critic.n_steps, copy.critic_lambda) == (1, None)
    assert copy.advantage_scale.value == model.advantage_scale.value
    if "preset" not in kwargs:
        again = frozen_copy(model, 1, with_control_variate=False, **kwargs)
        assert again.critic_learning_rate == model.critic_learning_rate
