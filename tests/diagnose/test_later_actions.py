"""Control variates of later actions in the diagnosis: shares that agree with enumerated ones, and twins that do not."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_relax import RELAXA2C, callbacks
from sb3_relax.algorithm.copies import frozen_copy
from sb3_relax.callbacks import GradientVarianceCallback
from sb3_relax.control_variates import Trajectory
from sb3_relax.diagnose import diagnose, later_actions
from sb3_relax.diagnose.continuations import continue_states
from sb3_relax.diagnose.later_actions import LaterLuck, corrected, trajectory_in
from sb3_relax.diagnose.measure import _parts
from sb3_relax.diagnose.restore import EnvSource
from sb3_relax.diagnose.rollout_gradients import rollouts
from sb3_relax.diagnose.states import visit
from tests.diagnose.problems import score_gradient
from tests.diagnose.test_diagnose import LITTLE
from tests.helpers import TinyEnv

CELLS, ACTIONS, LENGTH, STEPS = 2, 3, 3, 4
GAMMA, LAMBDA = 0.9, 0.8
NAME = "trajectory"


class Walk(gym.Env):
    """Three steps over two cells: an action pays r(t, cell, action), and leads to a cell by p(t, cell, action)."""

    observation_space = spaces.Box(0.0, 1.0, (LENGTH * CELLS,), np.float32)
    action_space = spaces.Discrete(ACTIONS)
    rewards = 2 * np.random.default_rng(3).normal(size=(LENGTH, CELLS, ACTIONS))
    #: of the second cell
    probability = np.random.default_rng(4).uniform(0.1, 0.9, size=(LENGTH, CELLS, ACTIONS))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.cell = 0, int(self.np_random.integers(CELLS))
        return observation(self.t, self.cell), {}

    def step(self, action):
        at = (self.t, self.cell, int(action))
        self.t, self.cell = self.t + 1, int(self.np_random.random() < self.probability[at])
        ended = self.t == LENGTH
        return observation(min(self.t, LENGTH - 1), self.cell), float(self.rewards[at]), ended, False, {}


def observation(t, cell):
    return np.eye(LENGTH * CELLS, dtype=np.float32)[t * CELLS + cell]


@pytest.fixture(scope="module")
def walker():
    """An agent with weights that matter, in ã too, of which 0.7 is applied."""
    model = RELAXA2C(
        "MlpPolicy", Walk(), policy_kwargs=dict(net_arch=[8]), seed=0, device="cpu", n_steps=STEPS, gamma=GAMMA,
        gae_lambda=LAMBDA, control_variate=NAME,
    )  # fmt: skip
    th.manual_seed(1)
    variate = trajectory_in(model)
    with th.no_grad():
        model.policy.action_net.weight.normal_()
        for parameter in variate.centred.parameters():
            parameter.normal_(std=0.5)
        variate.scale.observe(th.full((8,), 15.0))
        variate.learned_share.learn_share(1.0, -0.07, 0.1)
    assert variate.share == pytest.approx(0.7)
    assert variate.unit == pytest.approx(15.0)
    return model


class Exact:
    """Everything by enumeration of the walk: probabilities of states, policy, V, and of the corrected advantage."""

    def __init__(self, model):
        variate, everything = trajectory_in(model), th.eye(LENGTH * CELLS)
        pairs = everything.repeat_interleave(ACTIONS, 0), th.arange(ACTIONS).repeat(LENGTH * CELLS)[:, None]
        shape = (LENGTH, CELLS, ACTIONS)
        with th.no_grad():
            output = model.view.evaluate(*pairs)
            self.policy = output.log_prob.exp().double().numpy().reshape(shape)
            self.values = model.policy.predict_values(everything).double().numpy().reshape(LENGTH, CELLS)
            known = variate.centred.read(output, model.noise_generator)
            taken = variate.share * variate.unit * variate.centred(*known)
        self.taken = taken.double().numpy().reshape(shape)
        #: of each state, every step of an episode as likely as any other
        self.visits = np.zeros((LENGTH, CELLS))
        self.visits[0] = 1 / CELLS
        for t, cell, a in itertools.product(range(LENGTH - 1), range(CELLS), range(ACTIONS)):
            p = self.visits[t, cell] * self.policy[t, cell, a] * Walk.probability[t, cell, a]
            self.visits[t + 1] += [self.visits[t, cell] * self.policy[t, cell, a] - p, p]
        self.visits /= LENGTH
        self.gradient = score_gradient(model)

    def advantages(self, t, cell, a, left):
        """Every value of Â - Σ_{l≥1} (γλ)^l ã, and its probability, given state, action and steps left."""
        for after, p in enumerate((1 - Walk.probability[t, cell, a], Walk.probability[t, cell, a])):
            ended = t + 1 == LENGTH
            following = 0.0 if ended else self.values[t + 1, after]
            delta = Walk.rewards[t, cell, a] + GAMMA * following - self.values[t, cell]
            if ended or left == 1:
                yield delta, p
                continue
            for then in range(ACTIONS):
                for rest, q in self.advantages(t + 1, after, then, left - 1):
                    own = rest - self.taken[t + 1, after, then]
                    yield delta + GAMMA * LAMBDA * own, p * self.policy[t + 1, after, then] * q

    def parts(self):
        """Σ_τ, Σ_a, Σ_s at the policy's weights; the state includes the steps left."""
        future = action = 0.0
        means, weights = [], []
        for t, cell, left in itertools.product(range(LENGTH), range(CELLS), range(1, STEPS + 1)):
            weight, given = self.visits[t, cell] / STEPS, th.from_numpy(observation(t, cell))[None]
            of_action = []
            for a in range(ACTIONS):
                values, p = np.array(list(self.advantages(t, cell, a, left))).T
                mean = p @ values
                score = self.gradient(given, th.tensor([a]), 1.0)
                future += weight * self.policy[t, cell, a] * (p @ (values - mean) ** 2) * float(score.square().sum())
                of_action.append(mean * score)
            mean = sum(p * g for p, g in zip(self.policy[t, cell], of_action, strict=True))
            spread = [float((g - mean).square().sum()) for g in of_action]
            action += weight * float(self.policy[t, cell] @ spread)
            means.append(mean)
            weights.append(weight)
        means, weights = th.stack(means), th.tensor(weights)
        state = weights @ (means - weights @ means).square().sum(1)
        return future, action, float(state)


def measured(model, of_later=None, seed=1, n_states=800):
    """The split with ã by continuations, as diagnose() makes it."""
    th.manual_seed(seed)
    base, fitted = frozen_copy(model, seed), {NAME: [frozen_copy(model, seed)]}
    states = visit(base.policy, EnvSource(Walk()), n_states, n_states, 10, seed)
    rng, of_later = np.random.default_rng(seed), of_later or LaterLuck(base, fitted)
    sample = continue_states(base.policy, states, 4, 2, [LAMBDA], GAMMA, STEPS, rng, of_later=of_later)
    return _parts(base, sample, fitted)


def z_scores(split, exact):
    return np.array([
        (part.value - truth) / part.standard_error
        for part, truth in zip((split.future, split.action, split.state), exact, strict=True)
    ])  # fmt: skip


@pytest.fixture(scope="module")
def exact(walker):
    return Exact(walker)


def test_shares_are_the_enumerated_ones(walker, exact):
    """Of the future's, which ã changes, and of the others, which it does not."""
    assert exact.visits.sum() == pytest.approx(1)
    parts, truth = measured(walker), exact.parts()
    assert np.abs(z_scores(parts[NAME, 0], truth)).max() < 4.5
    assert parts[NAME, 0].future.standard_error < 0.15 * truth[0]
    taken, exact.taken = exact.taken, np.zeros_like(exact.taken)
    plain = exact.parts()
    exact.taken = taken
    assert np.abs(z_scores(parts["V(s)", 0], plain)).max() < 4.5
    assert plain[1:] == pytest.approx(truth[1:], rel=1e-5)
    assert abs(plain[0] - truth[0]) > 6 * parts[NAME, 0].future.standard_error


class Twice(LaterLuck):
    def __call__(self, observations, actions):
        return 2 * super().__call__(observations, actions)


class NotCentred(LaterLuck):
    """A q(s, a) as it is, in which the state tells what is subtracted."""

    def __call__(self, observations, actions):
        return super().__call__(observations, actions) + observations[:, CELLS::CELLS].sum(1) * 20.0


@pytest.mark.parametrize("twin", [Twice, NotCentred])
def test_broken_twins_are_rejected(twin, walker, exact):
    broken = twin(frozen_copy(walker, 0), {NAME: [frozen_copy(walker, 0)]})
    found = measured(walker, broken, n_states=650)[NAME, 0]
    assert np.abs(z_scores(found, exact.parts())).max() > 6


def test_what_is_not_finite_is_left_out_as_in_training(walker):
    class Broken(LaterLuck):
        def __call__(self, observations, actions):
            return np.full_like(super().__call__(observations, actions), np.inf)

    parts = measured(walker, Broken(frozen_copy(walker, 0), {NAME: [frozen_copy(walker, 0)]}), n_states=50)
    assert parts[NAME, 0].future.value == pytest.approx(parts["V(s)", 0].future.value)


def test_a_rollout_is_corrected_as_an_update_corrects_it(walker):
    """And the control variate keeps nothing of it."""
    model = frozen_copy(walker, 0)
    env = walker.get_env()
    for steps in rollouts(model, env, 3, [0.5, LAMBDA]):
        for i in range(2):
            ours = corrected(trajectory_in(model), steps, i, model.noise_generator)
            assert trajectory_in(model).corrected is None
            rollout = steps.at(i)
            model.control_variate.prepare(rollout, model.noise_generator)
            assert ours.numpy() == pytest.approx(rollout.advantages.T.ravel(), abs=1e-6)
            assert not th.allclose(ours, steps.advantages[i])
            trajectory_in(model).corrected = None


def test_the_share_is_of_rollouts_that_were_not_learned_from(monkeypatch):
    """The last fifth; all others have been seen, in their order."""
    seen, held_out = [], []
    share, see = later_actions.learn_share, later_actions.luck_in

    def luck_in(variate, rollout, generator):
        held_out.append(rollout.actions.sum() + rollout.observations.sum())
        return see(variate, rollout, generator)

    prepare = Trajectory.prepare

    def noting(self, rollout, generator):
        seen.append(rollout.actions.sum() + rollout.observations.sum())
        prepare(self, rollout, generator)

    def learn_share(variate, luck):
        shares.append((held_out[-len(luck) :], len(variate.recent)))
        share(variate, luck)

    shares = []
    monkeypatch.setattr(later_actions, "luck_in", luck_in)
    monkeypatch.setattr(later_actions, "learn_share", learn_share)
    monkeypatch.setattr(Trajectory, "prepare", noting)
    env = TinyEnv(spaces.Discrete(3))
    model = RELAXA2C("MlpPolicy", env, seed=0, n_steps=8, device="cpu")
    diagnose(model, env, lambdas=(0.5,), control_variates=[NAME], **{**LITTLE, "n_fit_steps": 80})
    assert [(len(rollouts), steps) for rollouts, steps in shares] == [(2, 64)] * 2
    assert len(seen) == 8 + LITTLE["n_rollouts"]
    assert not {*shares[0][0]} & {*seen[:8]}


def test_every_one_of_later_actions_is_a_row():
    env = TinyEnv(spaces.Discrete(3))
    model = RELAXA2C("MlpPolicy", env, seed=0, n_steps=8, device="cpu")
    names = [NAME, "trajectory_variance", "trajectory_model", "trajectory+relax", "trajectory_model+model"]
    result = diagnose(model, env, lambdas=(1.0, 0.0), control_variates=names, **LITTLE)
    for name in names:
        for gae_lambda in (1.0, 0.0):
            row = result.at(name, gae_lambda)
            assert 0 <= row.later_share <= 1
            assert row.total is not None
            assert row.rollouts_ratio.value > 0
        # at λ = 0 nothing comes later
        own, plain = result.at(name, 0.0), result.at("V(s)", 0.0)
        assert own.future.value == pytest.approx(plain.future.value)
    assert result.at("RELAX", 1.0).later_share is None


class Payments(TinyEnv):
    """Each action pays -1, 0 or 1, for long: what is to come is the sum of what later actions pay."""

    def __init__(self):
        super().__init__(spaces.Discrete(3), length=50)

    def step(self, action):
        observation, reward, *ends = super().step(action)
        return observation, reward - 0.7, *ends


def test_what_later_actions_pay_is_taken_out():
    """Most of Σ_τ, and most of the variance over rollouts."""
    model = RELAXA2C("MlpPolicy", Payments(), seed=0, n_steps=32, gamma=1.0, device="cpu")
    sizes = {**LITTLE, "n_states": 60, "n_fit_steps": 3_000, "n_fit_updates": 100, "n_rollouts": 40}
    result = diagnose(model, Payments(), lambdas=(0.8,), control_variates=[NAME], **sizes)
    row, plain = result.at(NAME, 0.8), result.at("V(s)", 0.8)
    assert row.later_share > 0.8
    assert row.future.value < 0.2 * plain.future.value
    assert row.rollouts_ratio.high < 0.8


def test_an_agent_of_later_actions_is_compared_with_what_gae_gives(walker):
    """V(s)'s row is not of advantages that the agent's own ã has corrected."""
    without = frozen_copy(walker, 0, with_control_variate=False, control_variate="none")
    sizes = {**LITTLE, "n_rollouts": 20}
    rows = [diagnose(agent, Walk(), lambdas=(LAMBDA,), **sizes).at("V(s)", LAMBDA) for agent in (walker, without)]
    assert rows[0].rollouts.value == pytest.approx(rows[1].rollouts.value, rel=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_callback_measures_what_is_taken_of_later_actions(normalize, monkeypatch):
    """With normalised advantages as well, which are larger where they vary less: both gradients have one mean."""
    model = RELAXA2C(
        "MlpPolicy", Payments(), seed=0, n_steps=32, gamma=1.0, gae_lambda=0.8, control_variate=NAME, device="cpu",
        normalize_advantage=normalize, n_cv_steps=10, learning_rate=1e-5,
    ).learn(1_500)  # fmt: skip
    assert trajectory_in(model).share > 0.5
    ratios = []
    monkeypatch.setattr(callbacks, "write", lambda outputs, values, step: ratios.append(values["gradient/ratio"]))
    callback = GradientVarianceCallback(Payments(), every=1, n_rollouts=40)
    callback.init_callback(model)
    callback.on_training_start({}, {})
    callback.on_rollout_start()
    assert ratios[0] < 0.8
