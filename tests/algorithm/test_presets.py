"""preset="fast"."""

from inspect import signature

import pytest
from stable_baselines3.common.env_util import make_vec_env

from sb3_relax import LAXA2C, RELAXA2C, RecurrentRELAXA2C
from sb3_relax.algorithm.presets import PRESETS
from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.hyperparameters import hyperparameters_of
from sb3_relax.policy_gradient.update_rules.natural_gradient import NaturalGradient

FAST = {name: setting.value for name, setting in PRESETS["fast"].items()}


DEFAULTS = {name: signature(RELAXA2C).parameters[name].default for name in FAST}


def test_its_values_are_those_of_what_is_not_given():
    model = RELAXA2C("MlpPolicy", "CartPole-v1", preset="fast", gamma=0.9, target_kl=0.01, n_relaxed=4)
    values = hyperparameters_of(model)
    plain = hyperparameters_of(RELAXA2C("MlpPolicy", "CartPole-v1"))
    for name, value in values.items():
        if name in FAST.keys() - {"gamma", "use_rms_prop"}:
            assert value == FAST[name], name
        elif name not in ("gamma", "target_kl", "use_rms_prop", "policy_kwargs", "n_relaxed"):
            assert value == plain[name], name
    assert (model.gamma, model.target_kl, model.n_relaxed) == (0.9, 0.01, 4)
    assert type(model.policy.optimizer).__name__ == "Adam"


def test_what_is_given_by_position_is_kept():
    model = LAXA2C("MlpPolicy", "Pendulum-v1", 1e-4, 7, preset="fast")
    assert (model.learning_rate, model.n_steps) == (1e-4, 7)
    assert model.gae_lambda == FAST["gae_lambda"]


def test_an_argument_of_a2cs_own_default_counts_as_given():
    assert RELAXA2C("MlpPolicy", "CartPole-v1", preset="fast", n_steps=5).n_steps == 5


@pytest.mark.parametrize("name", FAST)
def test_each_of_its_arguments_may_be_given_as_its_default(name):
    """Others that are part of it are left out with it, in the place of an error about what was not given."""
    model = RELAXA2C("MlpPolicy", "CartPole-v1", preset="fast", **{name: DEFAULTS[name]})
    if name != "use_rms_prop":
        assert hyperparameters_of(model)[name] == DEFAULTS[name]


def test_what_is_given_is_kept_where_it_has_no_effect():
    with pytest.raises(UsageError, match=r"target_kl=0.01 has no effect on update_rule='optimizer'"):
        RELAXA2C("MlpPolicy", "CartPole-v1", preset="fast", update_rule="optimizer", target_kl=0.01)


def test_what_is_part_of_a_part_is_left_out_too():
    model = RELAXA2C("MlpPolicy", "CartPole-v1", preset="fast", n_critic_steps=1)
    assert (model.critic_replay, model.critic_lambda, model.critic_batch_size) == (1, None, None)
    assert model.critic_learning_rate == FAST["critic_learning_rate"]
    model = RELAXA2C("MlpPolicy", "CartPole-v1", preset="fast", critic_replay=4, update_rule=NaturalGradient)
    assert (model.critic_lambda, model.update_rule_spec) == (FAST["critic_lambda"], NaturalGradient)


def test_a_class_leaves_out_what_it_refuses():
    model = RecurrentRELAXA2C("MlpLstmPolicy", "CartPole-v1", preset="fast")
    assert model.critic_replay == 1
    assert model.critic_batch_size is None
    assert model.update_rule_spec == "kfac"
    model.learn(2 * FAST["n_steps"])


def test_it_is_saved_as_its_values(tmp_path):
    model = RELAXA2C("MlpPolicy", "CartPole-v1", preset="fast", seed=0).learn(FAST["n_steps"])
    model.save(tmp_path / "agent")
    loaded = RELAXA2C.load(tmp_path / "agent")
    assert not hasattr(loaded, "preset")
    assert {name: getattr(loaded, name) for name in ("n_steps", "gae_lambda", "critic_replay")} == {
        name: FAST[name] for name in ("n_steps", "gae_lambda", "critic_replay")
    }


def test_a_subclass_with_a_constructor_of_its_own():
    class Mine(RELAXA2C):
        def __init__(self, *args, own=1, **kwargs):
            super().__init__(*args, **kwargs)
            self.own = own

    model = Mine("MlpPolicy", "CartPole-v1", own=2, preset="fast")
    assert (model.own, model.critic_replay) == (2, FAST["critic_replay"])


def test_a_file_is_loaded_with_its_values(tmp_path):
    """As "sb3-relax train -i AGENT" does with an entry that has a preset."""
    parts = dict(update_rule="kfac", critic_learning_rate=1e-3, normalize_returns=True, normalize_observations=True)
    RELAXA2C("MlpPolicy", "CartPole-v1", gamma=0.9, **parts).save(tmp_path / "agent")
    loaded = RELAXA2C.load(
        tmp_path / "agent", env=make_vec_env("CartPole-v1"), preset="fast", n_steps=6, target_kl=0.01
    )
    assert not hasattr(loaded, "preset")
    assert (loaded.n_steps, loaded.rollout_buffer.buffer_size) == (6, 6)
    assert (loaded.gamma, loaded.rollout_buffer.gamma) == (FAST["gamma"], FAST["gamma"])
    assert loaded.update_rule.target_kl == 0.01
    assert loaded.learn(12).n_critic_steps == loaded.critic.n_steps == FAST["n_critic_steps"]
    with pytest.raises(UsageError, match="preset must be one of 'fast'; got 'quick'"):
        RELAXA2C.load(tmp_path / "agent", preset="quick")


def test_a_file_that_has_its_own_standard_deviation_is_loaded(tmp_path):
    for own in ({"use_sde": True}, {"policy_kwargs": {"log_std_init": -1.5}}):
        LAXA2C("MlpPolicy", "Pendulum-v1", preset="fast", **own).save(tmp_path / "agent")
        loaded = LAXA2C.load(tmp_path / "agent", preset="fast")
        assert loaded.initial_action_std is None
        assert loaded.policy.log_std.mean().item() == own.get("policy_kwargs", {"log_std_init": 0})["log_std_init"]


def test_an_unknown_one_is_refused():
    with pytest.raises(UsageError, match="preset must be one of 'fast'; got 'quick'"):
        RELAXA2C("MlpPolicy", "CartPole-v1", preset="quick")
