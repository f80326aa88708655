"""Rates and coefficients as schedules, and V's own learning rate."""

import copy

import numpy as np
import pytest
import torch as th
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.utils import LinearSchedule

from sb3_relax import RELAXA2C, RecurrentRELAXA2C
from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.hyperparameters import COEFFICIENTS, DiscreteHyperparameters, scheduled_values
from tests.helpers import ACTION_SPACES, AllShared, TinyEnv

SCHEDULED = ("learning_rate", *COEFFICIENTS, *DiscreteHyperparameters.schedules())


class Kept(KVWriter):
    """Every value that is logged, by name."""

    def __init__(self):
        self.values = {}

    def write(self, key_values, key_excluded, step=0):
        for name, value in key_values.items():
            self.values.setdefault(name, []).append(value)

    def close(self):
        pass


def build(cls=RELAXA2C, policy="MlpPolicy", **kwargs):
    kwargs = dict(policy_kwargs=dict(net_arch=[6]), n_steps=5, seed=0, device="cpu") | kwargs
    return cls(policy, TinyEnv(ACTION_SPACES["discrete"]), **kwargs)


def logged(model, steps):
    kept = Kept()
    model.set_logger(Logger(None, [kept]))
    model.learn(steps, log_interval=1)
    model.logger.dump()  # of the last update, which SB3 leaves to the next
    return kept.values


def test_all_of_them_are_looked_at():
    assert {*SCHEDULED} == {"learning_rate", "cv_learning_rate", "critic_learning_rate", "ent_coef", "vf_coef"}


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_schedule_is_followed_and_never_asked_beyond_the_end(name):
    asked = []

    def schedule(progress):
        asked.append(progress)
        return 1e-3 * progress

    values = logged(build(**{name: schedule}), 12)[f"train/{name}"]  # the third rollout ends after 12 steps
    assert values == pytest.approx([1e-3 * 7 / 12, 1e-3 * 2 / 12, 0])
    assert min(asked) == 0


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_constant_schedule_is_the_number(name):
    as_number, as_schedule = (build(**{name: value}).learn(20) for value in (0.01, lambda progress: 0.01))
    for a, b in zip(as_number.policy.parameters(), as_schedule.policy.parameters(), strict=True):
        assert th.equal(a, b)
    other = build(**{name: 0.05}).learn(20)
    changed = [*other.policy.parameters(), *other.control_variate.parameters()]
    before = [*as_number.policy.parameters(), *as_number.control_variate.parameters()]
    assert any(not th.equal(a, b) for a, b in zip(changed, before, strict=True))


@pytest.mark.parametrize("name", [name for name in SCHEDULED if name != "ent_coef"])
@pytest.mark.parametrize("rate", [-1e-3, lambda progress: -1e-3])
def test_a_negative_one_is_refused_at_once(name, rate):
    with pytest.raises(UsageError, match=name):
        build(**{name: rate})


def test_a_coefficient_that_turns_negative_is_refused_before_a_weight_changes():
    model = build(vf_coef=lambda progress: progress - 0.5, n_steps=8)
    before = [weight.clone() for weight in model.policy.parameters()]
    with pytest.raises(UsageError, match="vf_coef must be a finite number >= 0"):
        model.learn(8)
    assert all(th.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))


def test_the_schedule_that_a_callback_puts_in_place_is_followed():
    model = build()
    model.lr_schedule = lambda progress: 0.25
    assert scheduled_values(model, 1.0)["learning_rate"] == 0.25


def weights_of(model, optimizer):
    names = {id(weight): name for name, weight in model.policy.named_parameters()}
    return {names[id(weight)] for group in optimizer.param_groups for weight in group["params"]}


@pytest.mark.parametrize(("cls", "policy"), [(RELAXA2C, "MlpPolicy"), (RecurrentRELAXA2C, "MlpLstmPolicy")])
def test_vs_own_weights_have_an_optimizer_and_a_rate_of_their_own(cls, policy):
    model = build(cls, policy, critic_learning_rate=0.5, learning_rate=0.25)
    critic, others = (weights_of(model, each) for each in (model.critic.optimizer, model.policy.optimizer))
    assert critic.isdisjoint(others)
    assert {*critic, *others} == {name for name, _ in model.policy.named_parameters()}
    assert {"value_net.weight", "mlp_extractor.value_net.0.weight"} <= critic
    assert {"action_net.weight", "mlp_extractor.policy_net.0.weight"} <= others
    model.learn(10)
    assert [group["lr"] for group in model.critic.optimizer.param_groups] == [0.5]
    assert [group["lr"] for group in model.policy.optimizer.param_groups] == [0.25]


def test_both_optimizers_have_the_settings_of_the_policys():
    model = build(critic_learning_rate=0.5, learning_rate=0.25, rms_prop_eps=0.125)
    plain = build(learning_rate=0.25, rms_prop_eps=0.125)
    assert model.policy.optimizer.defaults == model.critic.optimizer.defaults == plain.policy.optimizer.defaults
    assert plain.policy.optimizer.defaults["lr"] == 0.25
    assert type(model.critic.optimizer) is type(model.policy.optimizer) is type(plain.policy.optimizer)


def test_finding_vs_weights_leaves_every_module_in_its_mode():
    model = build()
    model.policy.set_training_mode(True)
    frozen = model.policy.mlp_extractor.policy_net[0]
    frozen.eval()
    model.view.follow(model.policy)
    assert model.view.critic_weights
    assert {module for module in model.policy.modules() if not module.training} == {frozen}


def test_the_same_rate_gives_the_same_weights():
    """Where clipping, which is apart, does nothing."""
    together, apart = (
        build(critic_learning_rate=rate, max_grad_norm=1e6, n_critic_steps=3).learn(50) for rate in (None, 7e-4)
    )
    for a, b in zip(together.policy.parameters(), apart.policy.parameters(), strict=True):
        assert th.equal(a, b)


@pytest.mark.parametrize(("rate", "moved"), [("learning_rate", "actor"), ("critic_learning_rate", "critic")])
def test_a_rate_of_zero_stops_one_and_not_the_other(rate, moved):
    model = build(**{"critic_learning_rate": 0.01, "learning_rate": 0.01, rate: 0.0})
    before = {name: weight.clone() for name, weight in model.policy.named_parameters()}
    model.learn(30)
    still = {name for name, weight in model.policy.named_parameters() if th.equal(weight, before[name])}
    optimizer = model.critic.optimizer if moved == "critic" else model.policy.optimizer
    assert still == weights_of(model, optimizer)


def test_it_is_saved_and_goes_on(tmp_path):
    model = build(critic_learning_rate=LinearSchedule(1e-2, 1e-3, 1.0), ent_coef=LinearSchedule(0.1, 0.0, 1.0))
    model.learn(40)
    model.save(tmp_path / "agent")
    other = RELAXA2C.load(tmp_path / "agent", device="cpu")
    ours, theirs = (each.critic.optimizer.state_dict()["state"] for each in (model, other))
    assert ours.keys() == theirs.keys() != set()
    for index, of_weight in ours.items():
        assert all(np.array_equal(value, theirs[index][name]) for name, value in of_weight.items())
    assert scheduled_values(other, 0.5) == scheduled_values(model, 0.5)
    with pytest.raises(UsageError, match="give both a critic_learning_rate, or neither"):
        RELAXA2C.load(tmp_path / "agent", device="cpu", critic_learning_rate=None)


def test_a_policy_that_shares_all_weights_is_refused():
    with pytest.raises(UsageError, match="critic_learning_rate needs weights that V alone depends on"):
        build(policy=AllShared, critic_learning_rate=1e-3)


def test_a_policy_may_be_taken_out_and_put_back():
    """As in self-play: its optimizer has given V's weights up already."""
    model = build(critic_learning_rate=0.01)
    first = model.policy
    for policy in (copy.deepcopy(first), first, copy.deepcopy(first)):
        model.policy = policy
        before = {name: weight.clone() for name, weight in policy.named_parameters()}
        model.learn(5)
        assert {*weights_of(model, model.critic.optimizer), *weights_of(model, policy.optimizer)} == {*before}
        assert not any(th.equal(weight, before[name]) for name, weight in policy.named_parameters())


def test_the_first_look_at_a_policy_is_without_cudnn():
    """Whose LSTMs have no derivative in evaluation mode; V's own optimizer is made before any batch."""
    enabled = []

    class Noting(RecurrentActorCriticPolicy):
        def evaluate_actions(self, *args, **kwargs):
            enabled.append((self.training, th.backends.cudnn.enabled))
            return super().evaluate_actions(*args, **kwargs)

    build(RecurrentRELAXA2C, Noting, critic_learning_rate=0.01).learn(5)
    assert enabled == [(False, False), (True, True)]
