"""The pass of an update without the calls of layers: what the policy gives, unless somebody listens to it."""

import functools

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.policy_gradient import quick_forward
from sb3_relax.policy_gradient.quick_forward import know, quick_evaluation, values_while_fitted
from sb3_relax.policy_gradient.state_features import StateReader
from tests.helpers import TinyEnv

CASES = {
    "discrete": (RELAXA2C, "CartPole-v1", {}),
    "normalised": (RELAXA2C, "CartPole-v1", dict(normalize_observations=True)),
    "box": (LAXA2C, "Pendulum-v1", {}),
    "gSDE": (LAXA2C, "Pendulum-v1", dict(use_sde=True)),
    "squashed": (LAXA2C, "Pendulum-v1", dict(use_sde=True, policy_kwargs=dict(squash_output=True))),
    "unshared extractors": (RELAXA2C, "CartPole-v1", dict(policy_kwargs=dict(share_features_extractor=False))),
    "multidiscrete": (RELAXA2C, lambda: TinyEnv(spaces.MultiDiscrete([2, 4, 3])), {}),
}


def agent(case="discrete"):
    algorithm, env, kwargs = CASES[case]
    model = algorithm("MlpPolicy", make_vec_env(env, 3, seed=0), n_steps=5, seed=0, **kwargs)
    data = next(model.learn(15).rollout_buffer.get())
    actions = data.actions.long().flatten() if isinstance(model.action_space, spaces.Discrete) else data.actions
    return model, data.observations, actions


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_policys_with_the_same_gradients(case):
    model, observations, actions = agent(case)
    policy = model.policy
    with model.view.reader.listening() as heard:
        expected = policy.evaluate_actions(observations, actions)
    *evaluated, features = quick_evaluation(policy, observations, actions)
    assert th.equal(features, heard[-1])
    gradients = []
    for values, log_prob, entropy in (expected, evaluated):
        loss = values.sum() + log_prob.sum() + (0 if entropy is None else entropy.sum())
        gradients.append(th.autograd.grad(loss, list(policy.parameters()), allow_unused=True))
    for a, b in zip((*expected, *gradients[0]), (*evaluated, *gradients[1]), strict=True):
        assert (a is b is None) or th.equal(a, b)


def listen(policy, which, heard):
    layer = policy.mlp_extractor.policy_net[0]
    if which == "forward":
        layer.register_forward_hook(lambda *_: heard.append(which))
    elif which == "backward":
        layer.register_full_backward_hook(lambda *_: heard.append(which))
    elif which == "before backward":
        layer.register_full_backward_pre_hook(lambda *_: heard.append(which))
    else:
        method = getattr(policy, which)
        setattr(policy, which, lambda *args: heard.append(which) or method(*args))


@pytest.mark.parametrize("which", ["forward", "backward", "before backward", "evaluate_actions", "extract_features"])
def test_who_listens_to_the_policy_hears_its_update(which):
    model, observations, actions = agent()
    heard = []
    listen(model.policy, which, heard)
    assert quick_evaluation(model.policy, observations, actions) is None
    model.train()
    assert heard


@pytest.mark.parametrize(
    ("kind", "name"),
    [(ActorCriticPolicy, "evaluate_actions"), (MlpExtractor, "forward_actor"), (MlpExtractor, "forward")],
)
def test_a_method_that_is_replaced_in_its_class_is_called(kind, name, monkeypatch):
    model, observations, actions = agent()
    heard = []
    method = getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda *args: heard.append(name) or method(*args))
    assert quick_evaluation(model.policy, observations, actions) is None
    model.train()
    assert heard


def replaced(method, heard):
    return lambda *args, **kwargs: heard.append(1) or method(*args, **kwargs)


def replaced_and_named_alike(method, heard):
    return functools.wraps(method)(replaced(method, heard))


@pytest.mark.parametrize("change", [replaced, replaced_and_named_alike])
@pytest.mark.parametrize("kind", [ActorCriticPolicy, MlpExtractor])
def test_a_method_that_was_replaced_before_its_class_became_known_is_called(kind, change, monkeypatch):
    model, observations, actions = agent()
    assert quick_evaluation(model.policy, observations, actions) is not None
    name = "forward" if kind is MlpExtractor else "evaluate_actions"
    heard = []
    monkeypatch.setattr(kind, name, change(getattr(kind, name), heard))
    monkeypatch.setattr(quick_forward, "AS_MADE", [])
    monkeypatch.setattr(quick_forward, "KNOWN_POLICIES", [])
    know([ActorCriticPolicy], [MlpExtractor])
    assert quick_evaluation(model.policy, observations, actions) is None
    model.train()
    assert heard


def test_a_reader_that_hears_in_its_own_way_is_asked():
    model, observations, actions = agent()

    class Doubling(StateReader):
        def heard(self, inputs, output):
            return 2 * output

    reader = model.view.reader
    *_, features = reader.evaluate(model.policy, observations, actions)
    *_, doubled = Doubling(reader.module, reader.dim).evaluate(model.policy, observations, actions)
    assert th.equal(doubled, 2 * features)


def test_who_listens_to_every_modules_backward_pass_hears_it():
    model, _, _ = agent()
    heard = []
    handle = nn.modules.module.register_module_full_backward_hook(lambda module, *_: heard.append(module))
    try:
        model.train()
    finally:
        handle.remove()
    assert model.policy.mlp_extractor.policy_net[0] in heard


class Halved(ActorCriticPolicy):
    """Evaluates in a way of its own."""

    def evaluate_actions(self, obs, actions):
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return values / 2, log_prob, entropy


def test_a_policy_that_evaluates_in_its_own_way_is_asked():
    model = RELAXA2C(Halved, "CartPole-v1", n_steps=5).learn(5)
    data = next(model.rollout_buffer.get())
    output = model.view.evaluate(data.observations, data.actions)
    assert th.equal(output.values, model.policy.predict_values(data.observations).flatten() / 2)


@pytest.mark.parametrize("case", CASES)
def test_values_of_some_rows_while_weights_change(case):
    model, observations, _ = agent(case)
    policy, rows = model.policy, th.tensor([4, 0, 11])
    values, inputs = values_while_fitted(policy, observations)
    for _ in range(2):
        assert th.equal(values(inputs), policy.predict_values(observations))
        gradients = [
            th.autograd.grad(function(of[rows]).sum(), policy.value_net.weight)[0]
            for function, of in ((values, inputs), (policy.predict_values, observations))
        ]
        assert th.equal(*gradients)
        with th.no_grad():
            for weight in policy.parameters():
                weight.add_(0.1)


class Noisy(FlattenExtractor):
    """Features that are others each time."""

    def forward(self, observations):
        return super().forward(observations) + th.randn(())


class Learning(FlattenExtractor):
    """Features with a weight."""

    def __init__(self, space):
        super().__init__(space)
        self.weight = nn.Parameter(th.ones(()))

    def forward(self, observations):
        return self.weight * super().forward(observations)


@pytest.mark.parametrize("extractor", [Noisy, Learning])
@pytest.mark.parametrize("normalized", [False, True])
def test_features_that_change_are_asked_for_every_time(extractor, normalized):
    model = RELAXA2C(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 3, seed=0),
        seed=0,
        normalize_observations=normalized,
        policy_kwargs=dict(features_extractor_class=extractor),
    )
    observations = th.randn(7, 4)
    values, inputs = values_while_fitted(model.policy, observations)
    assert inputs is observations
    assert values(inputs).requires_grad


def test_features_that_somebody_listens_to_are_asked_for_every_time():
    model, observations, _ = agent("normalised")
    heard = []
    model.policy.vf_features_extractor.extractor.register_forward_hook(lambda *_: heard.append(0))
    values, inputs = values_while_fitted(model.policy, observations)
    for _ in range(2):
        values(inputs)
    assert len(heard) == 2
