"""The trajectory-wise control variate, by enumeration of whole trajectories of a small decision process."""

import itertools
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_relax
from sb3_relax import LAXA2C, RELAXA2C, RecurrentLAXA2C
from sb3_relax.control_variates import (
    CentredAction,
    LinearInScore,
    SampledMean,
    Trajectory,
    TrajectoryByModel,
    TrajectoryByVariance,
)
from sb3_relax.control_variates.proofs import actions_of as actions_with_probability
from sb3_relax.control_variates.trajectory_variance import sums_in_order
from sb3_relax.errors import UsageError
from sb3_relax.estimators.estimate import expand_to
from sb3_relax.policy_gradient import Hyperparameters
from sb3_relax.policy_gradient.rollout import Rollout, TimeLimits
from tests.helpers import TinyEnv

STATES, STEPS, GAMMA = 2, 3, 0.9


class InFloat64(FlattenExtractor):
    def forward(self, observations):
        return super().forward(observations).double()


def actions_of(space):
    """All of them, as the rollout buffer keeps them."""
    if isinstance(space, spaces.Discrete):
        return [np.array([a]) for a in range(space.n)]
    sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else [2] * space.n
    return [np.array(a) for a in itertools.product(*(range(n) for n in sizes))]


class Process:
    """A decision process whose trajectories of three steps can all be written down, in the order of environments.

    After a step the episode goes on in one of the states, ends, or is cut by a time limit; the next one begins in state
    0. In state 1 the last action is forbidden, where there are masks.

    :param space: of actions
    :param gae_lambda: λ
    :param masked: whether the policy is told
    """

    def __init__(self, space, gae_lambda, masked=False, deterministic=False):
        self.space, self.gae_lambda, self.masked = space, gae_lambda, masked
        self.actions = actions_of(space)
        random = np.random.default_rng(5)
        n_actions = len(self.actions)
        #: r(s, a)
        self.rewards = random.normal(size=(STATES, n_actions))
        #: V, which is wrong, unless it is set
        self.values = random.normal(size=STATES)
        # what may come after a step: (next state, whether an episode begins there, whether a time limit was met)
        outcomes = [(0, False, False), (1, False, False), (0, True, False), (0, True, True)]
        if deterministic:
            self.outcomes = {
                (s, a): [(1.0, outcomes[(s + a) % 2 if (s + a) % 3 else 2])]
                for s, a in itertools.product(range(STATES), range(n_actions))
            }
        else:
            self.outcomes = {
                (s, a): list(zip(random.dirichlet(np.ones(4)), outcomes, strict=True))
                for s, a in itertools.product(range(STATES), range(n_actions))
            }
        kwargs = dict(features_extractor_class=InFloat64, net_arch=dict(pi=[4], vf=[4], cv=[4]))
        if masked:
            pytest.importorskip("sb3_contrib")
        algorithm = sb3_relax.MaskableRELAXA2C if masked else RELAXA2C
        env = TinyEnv(space, observation_space=spaces.Box(-1, 1, (STATES,)))
        self.model = algorithm("MlpPolicy", env, policy_kwargs=kwargs, device="cpu", seed=0)
        self.model.policy.double()
        with th.no_grad():
            for parameter in self.model.policy.parameters():
                parameter.add_(0.5 * th.randn_like(parameter))

    def masks(self, state):
        allowed = np.ones(len(self.actions))
        allowed[-1] = state == 0
        return allowed

    def probabilities(self, state):
        """π(a|s), ``[A]``."""
        context = {"action_masks": th.as_tensor(self.masks(state)).expand(len(self.actions), -1)} if self.masked else {}
        observations = th.eye(STATES)[state].expand(len(self.actions), -1)
        actions = th.as_tensor(np.stack(self.actions)).float()
        with th.no_grad():
            return self.model.view.evaluate(observations, actions, **context).log_prob.exp().numpy()

    def trajectories(self):
        """Every one of them, and its probability."""
        policy = [self.probabilities(state) for state in range(STATES)]

        def go_on(state, starts, n_steps):
            if n_steps == 0:
                yield 1.0, [], state
                return
            for a in range(len(self.actions)):
                if policy[state][a] == 0:
                    continue
                for p, (after, ends, cut) in self.outcomes[state, a]:
                    step = (state, a, starts, ends, cut)
                    for rest, steps, last in go_on(after, ends, n_steps - 1):
                        yield policy[state][a] * p * rest, [step, *steps], last

        return [found for first in range(STATES) for found in go_on(first, False, STEPS)]

    def rollout(self, trajectories=None):
        """All trajectories as environments of one rollout, and their probabilities: one for each first state."""
        trajectories = self.trajectories() if trajectories is None else trajectories
        probability, all_steps, last = zip(*trajectories, strict=True)
        state, action, starts, ends, cut = np.array(all_steps).transpose(2, 1, 0)  # each [T, E]
        rewards = self.rewards[state, action] + GAMMA * self.values[1] * cut  # the state that was cut off is 1
        values = self.values[state]
        following = np.concatenate([values[1:], self.values[list(last)][None]])
        delta = rewards + GAMMA * (1 - ends) * following - values
        advantages = delta.copy()
        for step in reversed(range(STEPS - 1)):
            advantages[step] += GAMMA * self.gae_lambda * (1 - ends[step]) * advantages[step + 1]
        buffer = SimpleNamespace(gamma=GAMMA, gae_lambda=self.gae_lambda, to_torch=th.as_tensor)
        masks = np.array([[self.masks(s) for s in row] for row in state]) if self.masked else None
        rollout = Rollout(
            observations=np.eye(STATES, dtype=np.float32)[state],
            actions=np.stack(self.actions)[action],
            rewards=rewards,
            episode_starts=starts.astype(np.float32),
            values=values,
            log_probs=np.zeros_like(values),
            advantages=advantages,
            returns=advantages + values,
            time_limits=TimeLimits(),
            buffer=buffer,
            context={"action_masks": masks} if self.masked else {},
        )
        return rollout, np.array(probability), (state, action)

    def variate(self, kind=Trajectory, centred=None, share=1.0, own_step=None):
        """With weights that are anything."""
        further = {} if centred is None else {"centred": centred(self.model.view)}
        made = kind(self.model.view, Hyperparameters(cv_guard=False), own_step, **further)
        generator = th.Generator().manual_seed(3)
        with th.no_grad():
            for number in (*made.parameters(), *made.buffers()):
                if number.is_floating_point():
                    number.copy_(0.5 * th.rand(number.shape, generator=generator) + 0.1)
            if isinstance(made, TrajectoryByModel):  # of which positive weights would make a constant
                for weight in made.model.parameters():
                    weight.copy_(2 * th.randn(weight.shape, generator=generator))
        return made.double()

    def expected(self, variate, rollout, probability, prepare=True):
        """The mean of the gradient, and V's target, of each step given the first state, ``[T, ...]``."""
        generator = th.Generator().manual_seed(0)
        if prepare:
            variate.prepare(rollout, generator)
        batch = rollout.batch(np.arange(rollout.values.size), th.float64)
        output = self.model.view.evaluate(batch.observations, batch.actions, **batch.context)
        grad = variate.gradient(output, batch.advantages, generator).grad.detach()
        weight = th.as_tensor(probability).repeat_interleave(STEPS)
        weighted = (expand_to(weight, output.latent) * grad).unflatten(0, (-1, STEPS)).sum(0)
        return weighted.numpy(), (probability * rollout.returns).sum(1)


class Plain(Trajectory):
    """Nothing is corrected."""

    def prepare(self, rollout, generator):
        pass


SPACES = {
    "discrete": spaces.Discrete(3),
    "multidiscrete": spaces.MultiDiscrete([2, 2]),
    "multibinary": spaces.MultiBinary(2),
}
LAMBDAS = [0.0, 0.8, 1.0]


@pytest.mark.parametrize("gae_lambda", LAMBDAS)
@pytest.mark.parametrize("space", [*SPACES, "masked"])
@pytest.mark.parametrize("kind", [Trajectory, TrajectoryByVariance, TrajectoryByModel])
def test_the_mean_is_that_of_the_uncorrected_gradient(kind, space, gae_lambda):
    if kind is TrajectoryByVariance and space != "discrete":
        pytest.skip("in all but its fit it is Trajectory")
    process = Process(SPACES.get(space, SPACES["discrete"]), gae_lambda, masked=space == "masked")
    rollout, probability, _ = process.rollout()
    exact, target = process.expected(process.variate(Plain), rollout, probability)
    assert probability.sum() == pytest.approx(STATES)
    assert abs(exact).max() > 0.1
    before = rollout.advantages.copy()
    ours, our_target = process.expected(process.variate(kind), rollout, probability)
    assert abs(rollout.advantages - before).max() > (0.05 if gae_lambda else -1)
    np.testing.assert_allclose(ours, exact, atol=1e-9)
    np.testing.assert_allclose(our_target, target, atol=1e-9)


def test_an_own_step_control_variate_goes_with_it():
    process = Process(SPACES["discrete"], 0.8)
    exact, _ = process.expected(process.variate(Plain), *process.rollout()[:2])
    own_step = RELAXA2C("MlpPolicy", process.model.env, control_variate="exact", cv_guard=False).control_variate
    variate = process.variate(own_step=own_step)
    ours, _ = process.expected(variate, *process.rollout()[:2])
    np.testing.assert_allclose(ours, exact, atol=1e-9)


class OfAnotherPolicy(LinearInScore):
    """ã of mean zero under a policy that does not act."""

    def read(self, output, generator):
        other = output.latent.at(output.latent.theta + th.linspace(0, 1, output.latent.theta[0].numel()))
        return output.features, other.score(output.sample).detach().flatten(1)


class FittedToItsOwnBatch(Trajectory):
    """Each environment's share is the one that suits its own trajectory."""

    def prepare(self, rollout, generator):
        plain = rollout.advantages
        super().prepare(rollout, generator)
        later = plain - rollout.advantages
        share = (plain * later).sum(0) / (later**2).sum(0).clip(1e-9)
        rollout.advantages = plain - share * later


class AsTheAdvantage(Trajectory):
    """ã takes the advantage's place, in the manner of direct advantage estimation."""

    def prepare(self, rollout, generator):
        plain, returns = rollout.advantages, rollout.returns
        super().prepare(rollout, generator)
        rollout.advantages = (returns - rollout.returns) - (plain - rollout.advantages)


class OwnActionToo(Trajectory):
    """The step's own ã is taken out too, and nothing is added for it."""

    def prepare(self, rollout, generator):
        values = rollout.returns - rollout.advantages
        super().prepare(rollout, generator)
        rollout.advantages = rollout.returns - values


class Normalised(Trajectory):
    """Advantages are divided by their size in each trajectory, and what is taken out is not."""

    def prepare(self, rollout, generator):
        plain = rollout.advantages
        super().prepare(rollout, generator)
        later = plain - rollout.advantages
        rollout.advantages = plain / np.abs(plain).mean(0) - later


@pytest.mark.parametrize("broken", [OfAnotherPolicy, FittedToItsOwnBatch, AsTheAdvantage, OwnActionToo, Normalised])
def test_broken_ones_are_rejected(broken):
    process = Process(SPACES["discrete"], 0.8)
    exact, _ = process.expected(process.variate(Plain), *process.rollout()[:2])
    of_centring = issubclass(broken, CentredAction)
    variate = process.variate(centred=broken) if of_centring else process.variate(broken)
    ours, _ = process.expected(variate, *process.rollout()[:2])
    assert abs(ours - exact).max() > 1e-3


@pytest.mark.parametrize("masked", [False, True])
def test_a_sampled_mean_is_right_on_average(masked):
    process = Process(SPACES["discrete"], 0.8, masked=masked)
    exact, _ = process.expected(process.variate(Plain), *process.rollout()[:2])
    variate = process.variate(centred=SampledMean)
    trajectories = process.trajectories()
    generator = th.Generator().manual_seed(1)
    draws = []
    for _ in range(30):
        rollout, probability, _ = process.rollout(trajectories)
        variate.prepare(rollout, generator)
        draws.append(process.expected(variate, rollout, probability, prepare=False)[0])
    error = np.std(draws, 0, ddof=1) / np.sqrt(len(draws))
    assert (abs(np.mean(draws, 0) - exact) < 5 * error + 1e-12).all()
    assert error.max() < 0.02


@pytest.mark.parametrize("gae_lambda", LAMBDAS)
def test_with_nothing_learned_the_advantage_is_gae(gae_lambda):
    process = Process(SPACES["discrete"], gae_lambda)
    rollout, _, _ = process.rollout()
    before, returns = rollout.advantages, rollout.returns
    Trajectory(process.model.view, Hyperparameters(cv_guard=False)).double().prepare(rollout, th.Generator())
    assert np.array_equal(rollout.advantages, before)
    assert np.array_equal(rollout.returns, returns)


def with_its_own_v(process):
    """A process of deterministic dynamics whose V is right, and the advantages, ``[STATES, A]``."""
    policy = np.stack([process.probabilities(state) for state in range(STATES)])

    def q():
        return np.array(
            [
                [
                    process.rewards[s, a] + GAMMA * (0 if ends else process.values[after])
                    for a, [(_, (after, ends, _))] in ((a, process.outcomes[s, a]) for a in range(3))
                ]
                for s in range(STATES)
            ]
        )

    for _ in range(500):
        process.values = (policy * q()).sum(1)
    return q() - process.values[:, None]


class Tabulated(CentredAction):
    """ã as a table of states and actions."""

    def __init__(self, table):
        super().__init__()
        self.register_buffer("table", th.as_tensor(table))

    def read(self, output, generator):
        return output.features, output.sample.flatten(1)

    def forward(self, features, sample):
        return (features @ self.table * sample).sum(1)


@pytest.mark.parametrize("gae_lambda", LAMBDAS)
def test_with_the_exact_q_and_v_nothing_is_left_to_chance_where_dynamics_are_deterministic(gae_lambda):
    process = Process(SPACES["discrete"], gae_lambda, deterministic=True)
    advantage = with_its_own_v(process)
    variate = Trajectory(process.model.view, Hyperparameters(cv_guard=False), centred=Tabulated(advantage)).double()
    rollout, _, (state, action) = process.rollout()
    assert gae_lambda == 0 or abs(rollout.advantages - advantage[state, action]).max() > 0.1
    variate.prepare(rollout, th.Generator())
    np.testing.assert_allclose(rollout.advantages, advantage[state, action], atol=1e-9)
    np.testing.assert_allclose(rollout.returns, process.values[state], atol=1e-9)


@pytest.mark.parametrize("name", ["trajectory", "trajectory+lax"])
def test_box_actions_have_a_mean_of_zero(name):
    model = LAXA2C("MlpPolicy", TinyEnv(spaces.Box(-1, 1, (2,))), control_variate=name, device="cpu", seed=0)
    centred = model.control_variate.variate.centred.double()
    with th.no_grad():
        for parameter in centred.parameters():
            parameter.copy_(th.randn_like(parameter))
    output = model.view.evaluate(th.rand(1, 3), th.rand(1, 2))
    b, probability = actions_with_probability(output)
    everything = output.at(th.zeros(len(b), dtype=th.int64))
    known = centred.read(
        everything._replace(latent=everything.latent.at(everything.latent.theta.double()), sample=b,
                            features=everything.features.double()), th.Generator()
    )  # fmt: skip
    of_action = centred(*known)
    assert of_action.abs().max() > 0.1
    assert abs((probability * of_action).sum().item()) < 1e-9


SDE = dict(use_sde=True, device="cpu", seed=0)


@pytest.mark.parametrize("n_episodes", [None, 1])
@pytest.mark.parametrize(("name", "frequency"), [("trajectory", -1), ("trajectory_model+lax", 4)])
def test_it_is_refused_where_noise_lasts(name, frequency, n_episodes):
    own = dict(sde_sample_freq=frequency, n_episodes=n_episodes)
    with pytest.raises(UsageError, match=f"sde_sample_freq={frequency} draws it for several: use use_sde=True with"):
        LAXA2C("MlpPolicy", "Pendulum-v1", control_variate=name, **SDE, **own)


def test_noise_that_comes_to_last_is_refused():
    model = LAXA2C("MlpPolicy", "Pendulum-v1", control_variate="trajectory", sde_sample_freq=1, **SDE)
    model.sde_sample_freq = -1
    with pytest.raises(UsageError, match="draws it for several"):
        model.learn(5)


class WithGSDE(ActorCriticPolicy):
    def __init__(self, *args, use_sde, **kwargs):
        super().__init__(*args, use_sde=True, **kwargs)


def test_a_policy_that_has_gsde_by_itself_is_refused():
    with pytest.raises(UsageError, match="use_sde=False, sde_sample_freq=-1 draws it for several"):
        LAXA2C(WithGSDE, "Pendulum-v1", control_variate="trajectory", device="cpu")


class StandingStill(gym.ObservationWrapper):
    def observation(self, observation):
        return np.ones_like(observation)


@pytest.mark.parametrize("kind", [LAXA2C, RecurrentLAXA2C])
@pytest.mark.parametrize("sde_sample_freq", [1, -1])
def test_noise_of_one_step_says_nothing_of_the_next(kind, sde_sample_freq):
    """Scores of two steps in a row are uncorrelated where each has a noise matrix, and where one lasts they are not."""
    env = DummyVecEnv([lambda: StandingStill(TinyEnv(spaces.Box(-1, 1, (1,))))] * 8)
    policy = "MlpPolicy" if kind is LAXA2C else "MlpLstmPolicy"
    model = kind(policy, env, n_steps=64, learning_rate=0.0, sde_sample_freq=sde_sample_freq, **SDE)
    products = []

    def see(rollout, generator):
        batch, output = rollout.as_acted(model.view)
        score = batch.in_time_order(output.latent.score(output.sample).flatten(1)[:, 0])
        products.append(score[1:] * score[:-1])

    model.control_variate.prepare = see
    model.learn(20 * 64 * 8)
    products = np.stack(products)
    far = abs(products.mean()) / (products.std() / products.size**0.5)
    assert far < 4 if sde_sample_freq == 1 else far > 20


def test_what_is_not_finite_is_taken_out_nowhere_and_logged_as_such():
    model = RELAXA2C("MlpPolicy", "CartPole-v1", control_variate="trajectory", device="cpu", seed=0, n_steps=32)
    model.learn(32 * 20)
    variate = model.control_variate.variate
    variate.learned_share.square.fill_(1.0), variate.learned_share.cross.fill_(-1.0)
    assert variate.share > 0
    with th.no_grad():
        for parameter in variate.centred.parameters():
            parameter.fill_(float("nan"))
    model.learn(32 * 2, reset_num_timesteps=False)
    logged = model.logger.name_to_value
    assert (logged["train/trajectory_share"], logged["train/trajectory_ratio"]) == (0, 1)


def test_it_is_not_combined_with_itself():
    with pytest.raises(UsageError, match="trajectory"):
        RELAXA2C("MlpPolicy", "CartPole-v1", control_variate="trajectory+trajectory", device="cpu")


def test_sums_in_order_are_those_of_the_definition():
    generator = th.Generator().manual_seed(0)
    x = th.randn(13, generator=generator, dtype=th.float64)
    goes_on = th.rand(13, generator=generator, dtype=th.float64)
    goes_on[[4, 12]] = 0
    expected = x.clone()
    for t in reversed(range(12)):
        expected[t] += goes_on[t] * expected[t + 1]
    th.testing.assert_close(sums_in_order(x, goes_on), expected)


def test_the_fit_by_variance_takes_out_what_actions_add():
    """All of it where dynamics are deterministic, and V is right."""
    process = Process(SPACES["discrete"], 1.0, deterministic=True)
    with_its_own_v(process)
    variate = process.variate(TrajectoryByVariance)
    variate.n_steps, variate.recent.batch_size = 200, 1024
    variate.set_learning_rate(0.02)
    left = []
    for _ in range(2):
        rollout, _, _ = process.rollout()
        plain = np.square(rollout.returns - rollout.values).mean()
        variate.prepare(rollout, th.Generator())
        left.append(np.square(rollout.returns - rollout.values).mean() / plain)
        variate.learn(variate.corrected, th.Generator().manual_seed(0))
    assert left[1] < 0.02 < 0.2 < left[0]


@pytest.mark.parametrize(
    "name", ["trajectory", "trajectory+relax", "trajectory_variance", "trajectory_variance+exact+state"]
)
def test_it_learns_and_is_saved(name, tmp_path):
    model = RELAXA2C("MlpPolicy", "CartPole-v1", control_variate=name, device="cpu", seed=0, n_steps=32)
    model.learn(32 * 20)
    assert 0 < model.logger.name_to_value["train/trajectory_loss"] < 3
    variate = model.control_variate.variate
    assert variate.learned_share.square > 0
    assert len(variate.recent) == 32 * 20
    model.save(tmp_path / "agent.zip")
    loaded = RELAXA2C.load(tmp_path / "agent.zip", device="cpu", env=model.env)
    for ours, theirs in zip(loaded.control_variate.parameters(), model.control_variate.parameters(), strict=True):
        assert th.equal(ours, theirs)
    loaded.learn(32)


def test_garbage_is_left_out():
    """ã that has nothing to do with what comes after gets hardly a share."""
    model = RELAXA2C("MlpPolicy", "CartPole-v1", control_variate="trajectory", device="cpu", seed=0, n_steps=32)
    variate = model.control_variate.variate
    variate.n_steps = 0
    with th.no_grad():
        for parameter in variate.centred.parameters():
            parameter.copy_(3 * th.randn_like(parameter))
    model.learn(32 * 60)
    done = []
    variate.observe = lambda estimate: done.append(variate.corrected)
    model.learn(32 * 30)
    share = variate.share
    change = [1 + (2 * share * row.cross + share**2 * row.change) / row.square for row in done]
    assert abs(np.mean(change) - 1) < 0.02
