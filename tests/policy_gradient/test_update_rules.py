"""What every update rule must pass: those of the registry, and one that a user writes."""

import copy

import numpy as np
import pytest
import torch as th

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient import UPDATE_RULES
from tests.helpers import ACTION_SPACES, TinyEnv, written_in

#: what CONTRIBUTING.md has a reader write: a step along the gradient
PlainSGD = written_in("CONTRIBUTING.md", "PlainSGD")


class Backwards(PlainSGD):
    """A rule that goes the wrong way."""

    def backward(self, estimate, loss, divisor, max_grad_norm):
        return super().backward(estimate, loss, -divisor, max_grad_norm)


class Averaging(PlainSGD):
    """A rule with a state of its own."""

    def __init__(self, view, hyperparameters):
        super().__init__(view, hyperparameters)
        self.register_buffer("steps", th.zeros(()))

    def step(self, output, estimate, loss, divisor, max_grad_norm):
        self.steps += 1
        return super().step(output, estimate, loss, divisor / self.steps.item(), max_grad_norm)


RULES = {**UPDATE_RULES, "own sgd": PlainSGD, "own averaging": Averaging}


def model_with(rule, space="discrete", **kwargs):
    algorithm = LAXA2C if space == "box" else RELAXA2C
    arch = dict(net_arch=dict(pi=[6], vf=[6], cv=[4]))
    return algorithm(
        "MlpPolicy", TinyEnv(ACTION_SPACES[space]), update_rule=rule, policy_kwargs=arch, seed=0, device="cpu", **kwargs
    )


def one_step(model, max_grad_norm=1e9, signal=None):
    """Of the policy alone, on a batch of its own; the objective along ĝ before and after."""
    th.manual_seed(0)
    observations = th.rand(50, 3) - 0.5
    actions = th.as_tensor(np.stack([model.action_space.sample() for _ in range(50)])).float()
    signal = th.randn(50) if signal is None else signal
    output = model.view.evaluate(observations, actions.reshape(50, -1))
    estimate = model.control_variate.gradient(output, signal, model.noise_generator)
    norm = model.update_rule.step(output, estimate, 0 * output.values.sum(), 50, max_grad_norm)

    def objective(policy_output):
        return (estimate.grad * policy_output.latent.theta).sum().item() / 50

    return objective(output), objective(model.view.evaluate(observations, actions.reshape(50, -1))), norm


@pytest.mark.parametrize("space", ACTION_SPACES)
@pytest.mark.parametrize("rule", RULES)
def test_a_small_step_goes_up_along_the_estimate(rule, space):
    model = model_with(RULES[rule], space, learning_rate=1e-4)
    before, after, norm = one_step(model)
    assert after > before
    assert norm > 0


def test_a_step_that_goes_down_is_noticed():
    before, after, _ = one_step(model_with(Backwards, learning_rate=1e-4))
    assert after < before


@pytest.mark.parametrize("rule", RULES)
def test_at_rate_zero_nothing_moves(rule):
    model = model_with(RULES[rule], learning_rate=0.0)
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(30)
    assert all(th.equal(value, before[name]) for name, value in model.policy.state_dict().items())


@pytest.mark.parametrize("rule", RULES)
def test_the_gradient_is_clipped(rule):
    model = model_with(RULES[rule], learning_rate=0.0)
    _, _, norm = one_step(model, max_grad_norm=1e-3, signal=100 * th.ones(50))
    assert norm > 1  # before clipping
    gradients = [p.grad for p in model.policy.parameters() if p.grad is not None]
    assert th.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt().item() <= 1.001e-3


@pytest.mark.parametrize("rule", RULES)
def test_it_goes_on_where_it_was_saved(rule, tmp_path):
    model = model_with(RULES[rule], n_steps=8).learn(40)
    model.save(tmp_path / "agent")
    loaded = RELAXA2C.load(tmp_path / "agent", device="cpu")
    assert type(loaded.update_rule) is type(model.update_rule)
    for each in (model, loaded):
        each.set_env(TinyEnv(ACTION_SPACES["discrete"]))
        each.set_random_seed(5)
        each.learn(40, reset_num_timesteps=False)
    assert all(map(th.equal, model.policy.parameters(), loaded.policy.parameters()))


def test_a_state_of_its_own_is_saved(tmp_path):
    model = model_with(Averaging, n_steps=8).learn(40)
    assert model.get_parameters()["update_rule"] == {"steps": th.tensor(5.0)}
    model.save(tmp_path / "agent")
    assert RELAXA2C.load(tmp_path / "agent").update_rule.steps == 5


def test_plain_sgd_is_torchs():
    """Equal, update by update, to the same agent with torch's own SGD as its policy's optimizer."""
    arch = dict(net_arch=dict(pi=[6], vf=[6], cv=[4]), optimizer_class=th.optim.SGD)
    runs = []
    for rule in ("optimizer", PlainSGD):
        env = TinyEnv(ACTION_SPACES["discrete"])
        model = RELAXA2C("MlpPolicy", env, update_rule=rule, policy_kwargs=dict(arch), seed=0, device="cpu")
        runs.append(list(model.learn(100).policy.parameters()))
    for own, torchs in zip(*runs, strict=True):
        th.testing.assert_close(own, torchs, rtol=1e-6, atol=1e-7)


def test_errors():
    with pytest.raises(UsageError, match="unknown update_rule 'optimiser', did you mean 'optimizer'"):
        model_with("optimiser")
    with pytest.raises(TypeError, match="makes an UpdateRule, such as its class; it made a int"):
        model_with(lambda view, hyperparameters: 3)


def test_what_is_no_rule_says_why():
    with pytest.raises(UsageError, match=r"optimizer_class=torch.optim.SGD"):
        model_with(th.optim.SGD)
    made = model_with("optimizer").update_rule
    with pytest.raises(TypeError, match="such as its class; got PolicyOptimizerStep"):
        model_with(made)


@pytest.mark.parametrize(("before", "after"), [(Averaging, "optimizer"), ("optimizer", Averaging)])
def test_a_file_of_another_rule_is_refused(before, after, tmp_path):
    model_with(before).save(tmp_path / "agent")
    with pytest.raises(UsageError, match="another update rule"):
        RELAXA2C.load(tmp_path / "agent", update_rule=after)
