"""Networks side by side are the networks one by one: values, slopes, gradients, and what a fit makes of them."""

import pytest
import torch as th
from gymnasium import spaces

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.control_variates.network import ControlVariateNetwork, StateNetwork
from sb3_relax.control_variates.side_by_side import SideBySide, can_stand_side_by_side
from sb3_relax.diagnose import variates
from sb3_relax.diagnose.rollout_gradients import rollouts
from sb3_relax.estimators import GumbelOneHot, LogisticBernoulli
from tests.helpers import ACTION_SPACES, TinyEnv

COUNT, ROWS, FEATURES, ACTION = 3, 5, 4, 6


@pytest.fixture(autouse=True)
def in_float64():
    th.set_default_dtype(th.float64)
    yield
    th.set_default_dtype(th.float32)


def networks(kind, arch, *arguments):
    """Of different weights and scales, one of which is bounded."""
    th.manual_seed(0)
    made = [kind(FEATURES, *arguments[:1], arch, th.nn.Tanh, *arguments[1:]) for _ in range(COUNT)]
    for place, network in enumerate(made):
        for name, parameter in network.named_parameters():
            if name != "log_temperature":
                parameter.data.normal_()
            else:
                parameter.data.fill_(-0.5 * place)
        network.scale.fill_(2.0 + place)
    made[1].output_layer.weight.data.mul_(1e5)
    return made


def assert_equal(found, expected):
    """Up to rounding."""
    th.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def assert_same_gradients(together, apart, of_together, of_apart):
    """Of the sums of both."""
    found = dict(zip(together.stacked, th.autograd.grad(of_together, list(together.stacked.values())), strict=True))
    for place, network in enumerate(apart):
        expected = th.autograd.grad(of_apart[place], list(network.parameters()))
        for (name, _), gradient in zip(network.named_parameters(), expected, strict=True):
            assert_equal(found[name.replace(".", "_")][place], gradient)


@pytest.mark.parametrize("arch", [[8], [7, 8]])
def test_of_the_state(arch):
    apart = networks(StateNetwork, arch)
    together, features = SideBySide(apart), th.randn(COUNT * ROWS, FEATURES)
    expected = [network(part) for network, part in zip(apart, features.split(ROWS), strict=True)]
    assert_equal(together(features), th.cat(expected))
    assert_same_gradients(together, apart, together(features).square().sum(), [x.square().sum() for x in expected])


@pytest.mark.parametrize("latent", ["classes", "bits"])
def test_of_the_relaxed_action(latent):
    """c and its slope in z, of temperatures that differ; and the gradient of a function of both."""
    apart = networks(ControlVariateNetwork, [7, 8], ACTION, 0.7)
    shape = (2, 3) if latent == "classes" else (ACTION,)
    theta, features = th.randn(COUNT * ROWS, *shape), th.randn(COUNT * ROWS, FEATURES)
    kind = GumbelOneHot if latent == "classes" else LogisticBernoulli
    together, z = SideBySide(apart), th.randn(2, COUNT * ROWS, *shape)

    def of(network, part):
        return network.at_states(kind(theta[part]), features[part]).value_and_slope(z[:, part])

    parts = th.arange(COUNT * ROWS).split(ROWS)
    expected = [of(network, part) for network, part in zip(apart, parts, strict=True)]
    value, slope = of(together, th.arange(COUNT * ROWS))
    assert_equal(value, th.cat([x for x, _ in expected], 1))
    assert_equal(slope, th.cat([x for _, x in expected], 1))

    def loss(value, slope):
        return (value.square().sum() + slope.square().sum()) / 1e3

    assert_same_gradients(together, apart, loss(value, slope), [loss(*each) for each in expected])


def test_weights_are_handed_back():
    apart = networks(StateNetwork, [8])
    together = SideBySide(apart)
    with th.no_grad():
        for weight in together.stacked.values():
            weight.add_(1.0)
    before = [[weight.clone() for weight in network.parameters()] for network in apart]
    together.hand_back()
    for old, network in zip(before, apart, strict=True):
        assert all(th.equal(x + 1, y) for x, y in zip(old, network.parameters(), strict=True))


def test_layers_with_weights_of_their_own_are_not_taken():
    assert can_stand_side_by_side(StateNetwork(FEATURES, [8, 8], th.nn.ReLU))
    assert not can_stand_side_by_side(StateNetwork(FEATURES, [8, 8], th.nn.PReLU))
    assert not can_stand_side_by_side(th.nn.Linear(2, 2))
    assert not can_stand_side_by_side(None)


LAMBDAS, UPDATES = (1.0, 0.5, 0.0), 12


def fitted(space, name, monkeypatch, fit):
    """The weights and shares of one control variate for each λ, of the same minibatches, and of tiny advantages."""
    th.set_default_dtype(th.float32)
    kind = LAXA2C if space == "box" else RELAXA2C
    model = kind("MlpPolicy", TinyEnv(ACTION_SPACES[space]), n_steps=32, seed=0, device="cpu")
    data = variates.pooled([variates.pooled([steps]) for steps in rollouts(model, model.get_env(), 4, LAMBDAS)])
    found = [variates.variates_of(model, i)[name] for i in range(len(LAMBDAS))]
    # without relaxed noise, which is drawn for all at once
    random = th.Generator().manual_seed(0)
    drawn = [th.randint(100, (len(LAMBDAS), 16), generator=random) for _ in range(UPDATES)]
    monkeypatch.setattr(variates, "MINIBATCH", 16)
    calls = []

    def randint(high, size, generator):
        calls.append(size)
        if len(size) == 2:
            return drawn[len(calls) - 1]
        of_lambda, update = divmod(len(calls) - 1, UPDATES)
        return drawn[update][of_lambda]

    monkeypatch.setattr(variates.th, "randint", randint)
    fit(found, data.output, 1e-4 * data.advantages, UPDATES, None)
    monkeypatch.undo()
    assert len(calls) == (UPDATES if len(calls[0]) == 2 else UPDATES * len(LAMBDAS))
    return [[model.control_variate.share, *model.control_variate.parameters()] for model in found]


def one_by_one(models, output, advantages, n_updates, generator):
    for model, of_lambda in zip(models, advantages, strict=True):
        variates.fit(model, output, of_lambda, n_updates, generator)


CASES = [("discrete", variates.STATE), ("discrete", "exact"), ("multibinary", "exact"), ("box", "LAX")]


@pytest.mark.parametrize(("space", "name"), CASES)
def test_a_fit_of_all_is_that_of_each(space, name, monkeypatch):
    together = fitted(space, name, monkeypatch, variates.fit_all)
    apart = fitted(space, name, monkeypatch, one_by_one)
    assert any(share > 0 for share, *_ in together)
    for (share, *weights), (alone, *expected) in zip(together, apart, strict=True):
        assert share == pytest.approx(alone, abs=1e-3)
        for weight, other in zip(weights, expected, strict=True):
            assert weight.detach().numpy() == pytest.approx(other.detach().numpy(), abs=2e-5)


def test_a_fit_that_mixes_blocks_up_is_noticed(monkeypatch):
    right = SideBySide.in_blocks
    monkeypatch.setattr(SideBySide, "in_blocks", lambda self, x: right(self, x).flip(-3))
    together = fitted("discrete", variates.STATE, monkeypatch, variates.fit_all)
    monkeypatch.setattr(SideBySide, "in_blocks", right)
    apart = fitted("discrete", variates.STATE, monkeypatch, one_by_one)
    assert any((x - y).abs().max() > 1e-3 for a, b in zip(together, apart, strict=True) for x, y in zip(a[1:], b[1:]))  # noqa: B905


def test_one_lambda_with_advantages_beyond_all_measure_does_not_stop_the_others(monkeypatch):
    th.set_default_dtype(th.float32)
    model = RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), n_steps=32, seed=0, device="cpu")
    data = variates.pooled([variates.pooled([steps]) for steps in rollouts(model, model.get_env(), 4, LAMBDAS)])
    models = [variates.variates_of(model, i)[variates.STATE] for i in range(len(LAMBDAS))]
    advantages = data.advantages.clone()
    advantages[0] = 1e30
    variates.fit_all(models, data.output, advantages, 5, th.Generator().manual_seed(0))
    assert models[1].control_variate.variate.network.output_layer.weight.any()
