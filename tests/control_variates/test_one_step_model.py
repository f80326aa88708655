"""The learned model of one step: what it learns from, that it comes out right, and what an exact one would leave."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.control_variates import EnumeratedMean, OneStepModel, SampledMean
from sb3_relax.control_variates.one_step_model import Transitions
from sb3_relax.control_variates.proofs import measure_mean
from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.policy_view import require_value_of_features
from tests.helpers import ACTION_SPACES, AllShared, TinyEnv, in_full

PLACES = 4


class Ring(gym.Env):
    """A walk on a ring of four places, whose last one ends the episode where it is left by action 1."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-1, 1, (PLACES,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return np.eye(PLACES, dtype=np.float32)[0], {}

    def step(self, action):
        reward, ended = 0.5 * self.place - action, self.place == PLACES - 1 and action == 1
        self.place = (self.place + (1 if action == 1 else 2)) % PLACES
        return np.eye(PLACES, dtype=np.float32)[self.place], reward, bool(ended), False, {}


def learned(name, env=Ring, **kwargs):
    settings = dict(n_steps=32, n_cv_steps=20, cv_learning_rate=1e-2, learning_rate=0.0, seed=0, device="cpu")
    env = make_vec_env(env, 4, seed=0)
    return RELAXA2C("MlpPolicy", env, control_variate=name, **{**settings, **kwargs}).learn(32 * 4 * 16)


@pytest.fixture(scope="module")
def model():
    return learned("trajectory_model+model", gae_lambda=0.5)


def test_it_comes_out_right(model):
    """q(s, a) = r + γ (1 - d) V(s') - V(s), for every place and action."""
    one_step, places = in_full(model).model, th.eye(PLACES)
    with th.no_grad():
        values = model.policy.predict_values(places).flatten()
        for action in range(2):
            after = th.tensor([(place + (1 if action == 1 else 2)) % PLACES for place in range(PLACES)])
            ended = th.tensor([float(place == PLACES - 1 and action == 1) for place in range(PLACES)])
            exact = 0.5 * th.arange(PLACES) - action + model.gamma * (1 - ended) * values[after] - values
            q = one_step(places, th.eye(2)[action].expand(PLACES, 2))
            th.testing.assert_close(q, exact, atol=0.05, rtol=0)


def test_it_takes_out_what_it_says(model):
    """Of deterministic dynamics nearly everything: the actions' own part, and with V wrong some of the later ones'."""
    logged = model.logger.name_to_value
    assert logged["train/model_loss"] < 0.02
    assert logged["train/cv_gain"] > 0.8
    assert logged["train/grad_variance_ratio"] < 0.6
    assert logged["train/trajectory_ratio"] < 0.9


def test_both_learn_from_each_step_once(model):
    one_step = in_full(model).model
    assert one_step is in_full(model).own_step.model
    assert one_step.recent.n_added == 16 * 31 * 4  # all steps of a rollout but its last one
    assert sum(1 for module in in_full(model).modules() if isinstance(module, OneStepModel)) == 1


class Cut(TinyEnv):
    """Episodes that a time limit cuts after three steps."""

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, self.t >= 3, info


@pytest.mark.parametrize("env", [Cut, TinyEnv])
def test_only_known_successors_are_learned(env):
    made = RELAXA2C(
        "MlpPolicy", env(spaces.Discrete(2), length=3), control_variate="model", n_steps=8, device="cpu", seed=0
    ).learn(8)
    rows = in_full(made).model.recent
    _, actions, rewards, ended, _ = rows.in_order()
    # of seven steps with a next one, the third and the sixth end the episode, or are cut and left out
    assert ended.tolist() == ([0.0] * 5 if env is Cut else [0.0, 0, 1, 0, 0, 1, 0])
    assert len(rows) == len(ended)
    th.testing.assert_close(rewards, actions[:, 1] - 0.3)


@pytest.mark.parametrize("name", ["model", "trajectory_model", "state+model", "trajectory+model"])
def test_rollouts_of_one_step_are_refused(name):
    with pytest.raises(UsageError, match="use n_steps=2 or more, or another control_variate"):
        RELAXA2C("MlpPolicy", Ring(), control_variate=name, n_steps=1, device="cpu")
    RELAXA2C("MlpPolicy", Ring(), control_variate=name, n_steps=1, n_episodes=1, device="cpu")


def test_whole_episodes_end_where_they_end():
    made = RELAXA2C("MlpPolicy", Ring(), control_variate="model", n_episodes=3, device="cpu", seed=0).learn(30)
    _, actions, _, ended, _ = in_full(made).model.recent.in_order()
    assert ended.sum() >= 2
    assert (actions[ended == 1, 1] == 1).all()


@pytest.mark.parametrize("space", ACTION_SPACES)
def test_a_mean_is_taken_off(space):
    algorithm = LAXA2C if space == "box" else RELAXA2C
    made = algorithm("MlpPolicy", TinyEnv(ACTION_SPACES[space]), control_variate="trajectory_model", device="cpu")
    centred = in_full(made).centred
    assert isinstance(centred, SampledMean if space == "box" else EnumeratedMean)
    with th.no_grad():
        for parameter in centred.parameters():
            parameter.copy_(0.3 * th.randn_like(parameter))
        in_full(made).model.weight.fill_(1.0)
        in_full(made).model.spread.fill_(1.0)
        in_full(made).model.reward_square.fill_(1.0)
        output = made.view.evaluate(th.rand(1, 3), th.zeros(1, 1 if space == "discrete" else 2))
    mean = measure_mean(centred.double(), output, made.noise_generator, n_draws=10, nodes=12)
    assert mean.unbiased, mean
    assert mean.size > 0.01


class OfAnotherPolicy(EnumeratedMean):
    """The mean of a policy that does not act."""

    def read(self, output, generator):
        features, action, probability = super().read(output, generator)
        return features, action, th.full_like(probability, 1 / probability.shape[1])


def test_the_mean_of_another_policy_is_rejected():
    made = RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), device="cpu", seed=0)
    centred = OfAnotherPolicy(made.view).double()
    with th.no_grad():
        made.policy.action_net.bias.copy_(th.tensor([1.0, 0.0, -1.0]))
        for parameter in centred.parameters():
            parameter.copy_(th.randn_like(parameter))
        output = made.view.evaluate(th.rand(1, 3), th.zeros(1, 1))
    assert not measure_mean(centred, output, made.noise_generator).unbiased


@pytest.mark.parametrize("normalised", [1.0, 0.1])
def test_an_exact_q_leaves_nothing_to_the_action(normalised):
    """Whatever normalize_advantage makes of Â: q follows it."""
    made = RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), control_variate="model", device="cpu", cv_guard=False)
    variate, table = made.control_variate.double(), th.randn(3, dtype=th.float64)
    variate.model.forward = lambda features, actions: actions @ table
    variate.plain_scale.observe(table)
    variate.signal_scale.observe(normalised * table)
    output = made.view.evaluate(th.rand(1, 3).expand(3, 3), th.arange(3))
    output = output._replace(latent=output.latent.at(output.latent.theta.double()), sample=output.sample.double())
    estimate = variate.gradient(output, normalised * table, made.noise_generator)
    assert estimate.score_term.std(0).max() > 0.01 * normalised
    assert estimate.grad.std(0).max() < 1e-7


def test_v_is_that_of_a_rollout():
    """A value head that drops units while it is trained drops none of them here."""
    policy = dict(activation_fn=lambda: th.nn.Sequential(th.nn.Tanh(), th.nn.Dropout(0.5)))
    made = RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), policy_kwargs=policy, control_variate="model",
                    device="cpu")  # fmt: skip
    made.policy.set_training_mode(True)
    model = in_full(made).model
    with th.no_grad():
        model.gamma.fill_(0.9)
        features, actions = th.rand(4, 3), th.eye(3)[[0, 1, 2, 0]]
        # the model's own network has the policy's activations
        model.network.eval()
        assert th.equal(model(features, actions), model(features, actions))
        values = made.policy.predict_values(features)
        assert not th.equal(values, made.policy.predict_values(features))
    assert made.policy.training


def transitions(features):
    n = len(features)
    return Transitions(features, th.zeros(n, 2), th.zeros(n), th.zeros(n), features)


@pytest.mark.parametrize("offset", [0.0, 3000.0, -1e5])
def test_features_far_from_zero_have_their_own_deviation(offset):
    """That of all steps, each rollout with its weight, as float64 has it."""
    one_step = in_full(RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(2)), control_variate="model", device="cpu")).model
    generator = th.Generator().manual_seed(0)
    batches = [offset + place + th.randn(200, 3, generator=generator) for place in (0, 2, -3)]
    for batch in batches:
        assert one_step.take_in(transitions(batch))
    weights = th.tensor([one_step.decay**2, one_step.decay, 1.0], dtype=th.float64) / 200
    rows, weights = th.cat(batches).double(), weights.repeat_interleave(200).unsqueeze(1)
    mean = (weights * rows).sum(0) / weights.sum()
    variance = (weights * (rows - mean).square()).sum(0) / weights.sum()
    th.testing.assert_close((one_step.spread / one_step.weight).double(), variance, rtol=0.02, atol=0)


class OfObservations(ActorCriticPolicy):
    """V reads the observation beside the features; at zeros it is 0, as every fresh V is."""

    def predict_values(self, obs):
        return 2 * super().predict_values(obs) + obs.sum(-1, keepdim=True)

    def forward(self, obs, deterministic=False):
        actions, _, log_prob = super().forward(obs, deterministic)
        return actions, self.predict_values(obs), log_prob

    def evaluate_actions(self, obs, actions):
        _, log_prob, entropy = super().evaluate_actions(obs, actions)
        return self.predict_values(obs), log_prob, entropy


@pytest.mark.parametrize("name", ["model", "state+model", "trajectory_model+model"])
def test_a_v_of_more_than_the_features_is_found_out_and_so_it_is_where_it_is_put_in(name):
    env = TinyEnv(spaces.Discrete(2))
    with pytest.raises(UsageError, match="a predicted state has no value"):
        RELAXA2C(OfObservations, env, control_variate=name, device="cpu")
    made = RELAXA2C("MlpPolicy", env, control_variate=name, device="cpu").learn(10)
    policy, made.policy = made.policy, OfObservations(env.observation_space, env.action_space, lambda _: 7e-4)
    for _ in range(2):
        with pytest.raises(UsageError, match="a predicted state has no value"):
            made.learn(10)
    made.policy = policy
    made.learn(10)
    of_space = made.observation_space.np_random.bit_generator
    streams = th.get_rng_state(), of_space.state
    require_value_of_features(made.view)
    assert th.equal(streams[0], th.get_rng_state())
    assert streams[1] == of_space.state


@pytest.mark.parametrize("bound", [np.inf, np.finfo(np.float32).max, 1e-3])
def test_policies_of_sb3_are_taken_whatever_the_bounds(bound):
    parts = spaces.Dict(
        box=spaces.Box(-bound, bound, (3,), np.float32), far=spaces.Box(3000, 3001, (2,), np.float32),
        number=spaces.Discrete(3), bits=spaces.MultiBinary(2), image=spaces.Box(0, 255, (36, 36, 3), np.uint8),
    )  # fmt: skip
    env = TinyEnv(spaces.Discrete(2), observation_space=parts)
    RELAXA2C("MultiInputPolicy", env, control_variate="model", device="cpu")


@pytest.mark.parametrize("name", ["model", "factorised", "trajectory", "trajectory_variance", "trajectory_model+state"])
def test_steps_of_a_policy_that_was_replaced_are_forgotten(name):
    env = TinyEnv(spaces.MultiDiscrete([2, 3]))
    made = RELAXA2C("MlpPolicy", env, control_variate=name, n_steps=20, device="cpu").learn(60)
    made.policy = RELAXA2C("MlpPolicy", env, device="cpu").policy
    made.learn(20)
    recent = [part.recent for part in in_full(made).modules() if hasattr(part, "recent")]
    assert all(len(rows) <= 20 for rows in recent)
    assert any(len(rows) > 0 for rows in recent)
    for model in in_full(made).modules():
        if isinstance(model, OneStepModel):
            assert model.weight.item() == pytest.approx(1 - model.decay)


def test_policies_whose_v_cannot_be_asked_are_refused():
    with pytest.raises(UsageError, match="a predicted state has no value"):
        RELAXA2C(AllShared, TinyEnv(spaces.Discrete(2)), control_variate="model", device="cpu")
    pytest.importorskip("sb3_contrib")
    from sb3_relax import RecurrentRELAXA2C

    with pytest.raises(UsageError, match="depends on its memory"):
        RecurrentRELAXA2C("MlpLstmPolicy", TinyEnv(spaces.Discrete(2)), control_variate="trajectory_model")
