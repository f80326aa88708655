"""Bad input: refused early, clearly, before any weight changes."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.errors import UsageError
from tests.helpers import ACTION_SPACES, AllShared, TinyEnv


def test_a_wrong_action_space_names_the_class_to_use():
    with pytest.raises(ValueError, match=r"LAXA2C takes Box action spaces; got Discrete\(2\): use sb3_relax.RELAXA2C"):
        LAXA2C("MlpPolicy", "CartPole-v1")
    with pytest.raises(ValueError, match=r"RELAXA2C takes Discrete, MultiDiscrete, MultiBinary.*use sb3_relax.LAXA2C"):
        RELAXA2C("MlpPolicy", "Pendulum-v1")
    with pytest.raises(ValueError, match=r"use sb3_relax.HybridRELAXA2C instead$"):
        RELAXA2C("MlpPolicy", TinyEnv(spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)])))
    with pytest.raises(ValueError, match="flatten it to one of them"):
        RELAXA2C("MlpPolicy", TinyEnv(spaces.Text(3)))


BAD = {
    "learning_rate": (-1e-3, "finite number >= 0"),
    "cv_learning_rate": (float("nan"), "finite number >= 0"),
    "gamma": (1.5, "between 0 and 1"),
    "gae_lambda": (-0.1, "between 0 and 1"),
    "vf_coef": (float("inf"), "finite number >= 0"),
    "ent_coef": (float("nan"), "finite number"),
    "max_grad_norm": (-1, "finite number >= 0"),
    "n_steps": (0, "whole number >= 1"),
    "n_cv_steps": (0, "whole number >= 1"),
    "n_critic_steps": (2.5, "whole number >= 1"),
    "n_episodes": (0, "whole number >= 1"),
    "max_episode_steps": (-5, "whole number >= 1"),
    "cv_objective": ("logits", "one of 'distribution', 'weights'; got 'logits'"),
    "correction": ("gumbel", "one of 'coupled', 'relaxed', 'exact'; got 'gumbel'"),
    "n_relaxed": (0, "whole number >= 1"),
    "init_temperature": (0.0, "between 0.001 and 1000"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_hyperparameters_say_what_is_allowed(name):
    value, message = BAD[name]
    with pytest.raises(ValueError, match=f"{name} must be .*{message}"):
        RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu", **{name: value})


@pytest.mark.parametrize("name", ["learning_rate", "cv_learning_rate", "gamma", "ent_coef", "n_steps"])
def test_text_is_no_number(name):
    """As YAML reads 1e-3."""
    with pytest.raises(UsageError, match=f"{name} must be a .* number .*; got '1e-3'"):
        RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu", **{name: "1e-3"})


@pytest.mark.parametrize(("name", "allowed"), [("ent_coef", "a finite number"), ("vf_coef", "a finite number >= 0")])
def test_a_coefficient_may_be_a_schedule_and_the_error_says_so(name, allowed):
    message = rf"^{name} must be {allowed} \(or a schedule of such numbers\); got "
    with pytest.raises(UsageError, match=f"{message}'lin_0.1'$"):
        RELAXA2C("MlpPolicy", "CartPole-v1", **{name: "lin_0.1"})
    with pytest.raises(UsageError, match=f"{message}inf$"):
        RELAXA2C("MlpPolicy", "CartPole-v1", **{name: lambda remaining: float("inf")})


@pytest.mark.parametrize("cv", [[], [-8], 8])
def test_layers_of_the_control_variate(cv):
    with pytest.raises(ValueError, match=r"net_arch\['cv'\] must be a non-empty list of positive layer sizes; got"):
        RELAXA2C("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": {"pi": [8], "vf": [8], "cv": cv}})


def test_advantages_of_another_shape():
    model = RELAXA2C("MlpPolicy", "CartPole-v1")
    with pytest.raises(ValueError, match=r"advantages must have shape \(5,\); got \(5, 1\)"):
        model.policy_gradient(np.zeros((5, 4), np.float32), np.zeros(5), np.zeros((5, 1)))


def test_more_bad_hyperparameters():
    with pytest.raises(ValueError, match="n_episodes must be at least 4, one for each environment; got 3"):
        RELAXA2C("MlpPolicy", make_vec_env("CartPole-v1", 4), n_episodes=3)
    with pytest.raises(ValueError, match="needs whole episodes: set n_episodes"):
        RELAXA2C("MlpPolicy", "CartPole-v1", bootstrap_truncated=False)
    with pytest.raises(TypeError, match="n_relax"):
        RELAXA2C("MlpPolicy", "CartPole-v1", n_relax=2)
    with pytest.raises(TypeError, match="correction"):
        LAXA2C("MlpPolicy", "Pendulum-v1", correction="exact")


@pytest.mark.parametrize("name", ["learning_rate", "cv_learning_rate"])
def test_a_schedule_that_turns_bad_is_caught_before_the_step(name):
    model = RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu", **{name: LinearSchedule(1e-3, -1e-2, 1.0)})
    with pytest.raises(ValueError, match=f"{name} must be a finite number >= 0"):
        model.learn(100)


@pytest.mark.parametrize("n_episodes", [None, 1])
@pytest.mark.parametrize("what", ["reward", "observation"])
@pytest.mark.parametrize("space", ["discrete", "box"])
def test_nan_is_refused_with_its_place_before_any_weight_changes(space, what, n_episodes):
    algorithm = LAXA2C if space == "box" else RELAXA2C
    model = algorithm("MlpPolicy", TinyEnv(ACTION_SPACES[space], bad=(what, 3)), device="cpu", n_episodes=n_episodes)
    before = [p.clone() for p in model.policy.parameters()]
    with pytest.raises(ValueError, match=rf"{what}s must be finite, but the environment gave nan at .*environment 0"):
        model.learn(100)
    assert model._n_updates == 0
    assert all(th.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))


def test_infinite_observations_are_found_too():
    class Infinite(TinyEnv):
        def _observe(self):
            return np.full(3, np.inf, np.float32)

    model = RELAXA2C("MlpPolicy", Infinite(spaces.Discrete(2)), device="cpu")
    with pytest.raises(ValueError, match="observations must be finite, but the environment gave inf"):
        model.learn(100)


def test_enumeration_that_cannot_be_is_refused_at_construction():
    with pytest.raises(ValueError, match="use correction='coupled'"):
        RELAXA2C("MlpPolicy", TinyEnv(spaces.MultiBinary(64)), device="cpu", correction="exact")


def test_critic_steps_need_weights_of_their_own():
    env = TinyEnv(ACTION_SPACES["discrete"])
    RELAXA2C(AllShared, env, device="cpu").learn(10)
    with pytest.raises(ValueError, match="weights that V alone depends on"):
        RELAXA2C(AllShared, env, device="cpu", n_critic_steps=2).learn(10)


@pytest.mark.parametrize("space", ["discrete", "multibinary", "box"])
def test_weights_that_became_nan_are_not_blamed_on_the_environment(space):
    model = (LAXA2C if space == "box" else RELAXA2C)("MlpPolicy", TinyEnv(ACTION_SPACES[space]), device="cpu")
    with th.no_grad():
        model.policy.action_net.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"weights must be finite, but action_net.weight is not after 0 updates"):
        model.learn(10)


@pytest.mark.parametrize("setting", [True, False])
def test_torchs_own_validation_is_left_as_it_was(setting):
    from torch.distributions import Distribution

    Distribution.set_default_validate_args(setting)
    try:
        RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu").learn(10)
        assert Distribution._validate_args is setting
        with pytest.raises(ValueError, match="finite"):
            RELAXA2C("MlpPolicy", TinyEnv(ACTION_SPACES["discrete"], bad=("reward", 0)), device="cpu").learn(10)
        assert Distribution._validate_args is setting
    finally:
        Distribution.set_default_validate_args(True)
