"""A ĉ that diverges: the policy goes on, its gradient keeps its mean, and the guard leaves ĉ out."""

import copy
import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.control_variates import ControlVariate, Guarded, network
from sb3_relax.control_variates.finite import finite_or_plain
from sb3_relax.control_variates.lax import LAXControlVariate
from sb3_relax.estimators import Estimate
from sb3_relax.estimators.moments import ChangeMoments
from tests.control_variates.test_proofs import agent, anything, bias_of
from tests.helpers import ACTION_SPACES, TinyEnv, in_full

BUILT_IN = {"state": "discrete", "exact": "multidiscrete", "relax": "discrete", "lax": "box"}


class Scaled(TinyEnv):
    """Rewards of another size, or one of them."""

    def __init__(self, action_space, size, only=None):
        super().__init__(action_space)
        self.size, self.only = size, only

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward * (self.size if self.only in (None, self.total) else 1.0), *rest


def make(space, env, **kwargs):
    return (LAXA2C if space == "box" else RELAXA2C)("MlpPolicy", env, seed=0, device="cpu", **kwargs)


def are_finite(tensors):
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("rate", [10.0, 1e38])
@pytest.mark.parametrize("space", ["discrete", "box"])
def test_no_rate_of_phi_makes_a_weight_of_the_policy_nan(space, rate, guard):
    model = make(space, Scaled(ACTION_SPACES[space], 1e3), cv_learning_rate=rate, cv_guard=guard, learning_rate=1e-4)
    model.learn(5 * 30)
    assert model._n_updates == 30
    assert are_finite(model.policy.parameters())
    moments = [value for state in model.policy.optimizer.state.values() for value in state.values()]
    assert are_finite(moments)


#: of what is fitted to recent steps, what has parts of its own
REGRESSED = [("model", "discrete"), ("qprop", "box"), ("stein_quadratic", "box"), ("factorised", "multibinary"),
             ("trajectory_model+model+state", "discrete"), ("trajectory_variance", "box")]  # fmt: skip


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize(("name", "space"), REGRESSED)
def test_nor_does_one_of_those_that_are_regressed(name, space, guard):
    env = Scaled(ACTION_SPACES[space], 1e3)
    model = make(space, env, control_variate=name, cv_learning_rate=10.0, cv_guard=guard, learning_rate=1e-4)
    model.learn(5 * 30)
    assert are_finite(model.policy.parameters())


@pytest.mark.parametrize(("name", "space"), REGRESSED)
def test_nor_is_a_scale_of_theirs_lost_to_one_reward(name, space):
    model = make(space, Scaled(ACTION_SPACES[space], 1e38, only=33), control_variate=name)
    model.learn(130)
    assert are_finite([*model.policy.parameters(), *model.control_variate.state_dict().values()])


def test_phi_that_is_nan_is_said_with_the_rate_to_blame():
    model = make("discrete", TinyEnv(ACTION_SPACES["discrete"]))
    with th.no_grad():
        in_full(model).network.output_layer.weight[0, 0] = math.nan
    with pytest.warns(UserWarning, match="of the control variate are infinite or NaN.* with a lower cv_learning_rate"):
        model.learn(20)


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("size", [1e20, 1e38])
@pytest.mark.parametrize("space", ["discrete", "box"])
def test_one_reward_that_no_float_can_square_does_not_end_training(space, size, guard):
    model = make(space, Scaled(ACTION_SPACES[space], size, only=33), cv_guard=guard)
    model.learn(30)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(100, reset_num_timesteps=False)
    assert are_finite([*model.policy.parameters(), *model.control_variate.state_dict().values()])
    # it is learned from what came after
    assert not all(map(th.equal, before, model.policy.parameters()))


SCALES = {
    "advantages": dict(normalize_advantage="running"),
    "returns": dict(normalize_returns=True, n_critic_steps=2, critic_learning_rate=1e-3),
    "natural gradient": dict(update_rule="kfac"),
    "at the weights": dict(cv_objective="weights", n_cv_steps=2),
}


@pytest.mark.parametrize("scale", SCALES)
def test_no_running_scale_is_lost_to_one_reward(scale):
    model = make("box", Scaled(ACTION_SPACES["box"], 1e20, only=33), **SCALES[scale]).learn(150)
    assert are_finite([*model.policy.parameters(), *model.control_variate.state_dict().values()])
    assert are_finite([*model.advantage_scale.state_dict().values(), *model.critic.state_dict().values()])


class Diverges(ControlVariate):
    """A ĉ(s) that is a thousand times larger every time that it is asked, until it is infinite, and then NaN."""

    factor: th.Tensor

    def __init__(self, view, hyperparameters):
        super().__init__()
        self.register_buffer("factor", th.ones(()))

    def gradient(self, output, signal, generator):
        self.factor *= 1e3
        score = output.latent.score(output.sample)
        c = self.factor * (1 + output.values.detach())
        weight = (signal - (c - c * 0)).reshape(-1, *[1] * output.latent.event_ndim)
        return Estimate(output.latent, signal, weight * score, score=score)


@pytest.mark.filterwarnings("ignore:weights or statistics of the control variate")
@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("space", ["discrete", "box"])
def test_anybody_s_c_that_diverges_leaves_the_plain_gradient(space, guard):
    model = make(space, TinyEnv(ACTION_SPACES[space]), control_variate=Diverges, cv_guard=guard)
    model.learn(5 * 15)
    assert not in_full(model).factor.isfinite()
    assert are_finite(model.policy.parameters())
    plain = make(space, TinyEnv(ACTION_SPACES[space]), control_variate="none").learn(5)
    plain.policy.load_state_dict(model.policy.state_dict())
    plain.policy.optimizer.load_state_dict(copy.deepcopy(model.policy.optimizer.state_dict()))
    plain.rollout_buffer, plain.time_limits = model.rollout_buffer, model.time_limits
    state = np.random.get_state()  # noqa: NPY002  (SB3's generator)
    model.train()
    np.random.set_state(state)  # noqa: NPY002
    plain.train()
    for ours, theirs in zip(model.policy.parameters(), plain.policy.parameters(), strict=True):
        assert th.equal(ours, theirs)
    if guard:
        assert model.control_variate.share == 0


# -- the bound ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_c_at_its_bound_is_unbiased(name, monkeypatch):
    space = ACTION_SPACES[BUILT_IN[name]]
    for guard in (True, False):
        model = agent(space, name, cv_guard=guard)
        free = anything(copy.deepcopy(model.control_variate))
        monkeypatch.setattr(network, "LARGEST", 0.1)
        own = (free.variate if guard else free).network
        assert own.output_scale() < 0.5 * own.scale
        bias = bias_of(model)
        assert bias.unbiased, bias
        if not model.control_variate.draws_noise:
            assert bias.difference.abs().max() < 1e-9 * bias.size


class ClippedAfterwards(LAXControlVariate):
    """A bound on the estimate in the place of one on ĉ, which depends on the action."""

    def gradient(self, output, signal, generator):
        estimate = super().gradient(output, signal, generator)
        plain = estimate.score_term
        change = (estimate.grad - plain).clamp(-0.05, 0.05)
        return Estimate(output.latent, signal, plain + change, score=estimate.score)


def test_a_bound_that_looks_at_the_action_is_noticed():
    assert not bias_of(agent(ACTION_SPACES["box"], ClippedAfterwards, cv_guard=False)).unbiased


@pytest.mark.parametrize("size", [1.0, 1e3, 1e9, 1e30])
@pytest.mark.parametrize("actions", [spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,), np.float32)])
def test_value_and_slope_keep_to_the_bound_whatever_phi_is(actions, size):
    model = agent(actions, None, cv_guard=False)
    own = model.control_variate.network
    with th.no_grad():
        for parameter in own.parameters():
            parameter.normal_(std=size)
    own.scale.fill_(7.0)
    output = model.view.evaluate(th.randn(64, 3), th.as_tensor(np.array([actions.sample() for _ in range(64)])))
    value, slope = own.value_and_slope(output.features, th.rand(64, own.action_layer.in_features))
    assert value.abs().max() <= 1.001 * 7 * network.LARGEST
    assert slope.abs().max() <= 1.001 * 7 * network.LARGEST
    assert (own.output_scale() == own.scale) == (size == 1.0)


# -- the guard ---------------------------------------------------------------------------------------------------------


def guarded():
    made = Guarded(agent(ACTION_SPACES["discrete"], "state", cv_guard=False).control_variate)
    made.take_in(ChangeMoments((1.0, -0.5, 1.0), (1.0, -0.5, 1.0)))
    assert made.share == 0.5
    return made


@pytest.mark.parametrize("of_c", [(math.nan, math.nan), (math.inf, math.inf), (-1e30, math.inf), (-1e20, 1e38)])
def test_a_batch_beyond_all_measure_takes_the_share_away_until_there_is_better_evidence(of_c):
    guard = guarded()
    guard.take_in(ChangeMoments((1.0, *of_c), (1.0, *of_c)))
    assert guard.share == 0
    guard.take_in(ChangeMoments((1.0, -0.25, 1.0), (1.0, -0.25, 1.0)))
    assert guard.share == pytest.approx(0.25)


@pytest.mark.parametrize("size", [math.nan, math.inf, 0.0])
def test_advantages_that_say_nothing_leave_the_share_as_it_was(size):
    guard = guarded()
    if size == 0:
        guard.size.zero_()
    guard.take_in(ChangeMoments((size, math.nan, math.inf), (size, math.nan, math.inf)))
    assert guard.share == 0.5


@pytest.mark.parametrize("name", ["cross", "square"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_statistics_that_are_not_finite_give_a_share_that_is(name, bad):
    guard = guarded()
    getattr(guard, name).fill_(bad)
    assert 0 <= guard.share <= 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_at_a_share_of_zero_and_without_a_guard_a_c_that_is_not_finite_changes_nothing(bad):
    model = agent(ACTION_SPACES["discrete"], "state")
    output = model.view.evaluate(th.randn(5, 3), th.arange(5) % 3)
    signal = th.randn(5)
    with th.no_grad():
        in_full(model).network.output_layer.bias.fill_(bad)
    for variate in (model.control_variate, in_full(model)):
        estimate = finite_or_plain(variate.gradient(output, signal, model.noise_generator))
        assert th.equal(estimate.grad, estimate.score_term)
