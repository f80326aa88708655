"""Recurrent policies: exact given a past, padding in nothing, sb3-contrib's own updates without ĉ, memory learned."""

import itertools
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_relax import LAXA2C, RELAXA2C, RecurrentLAXA2C, RecurrentRELAXA2C
from sb3_relax.algorithm.recurrent import RecurrentRollout
from sb3_relax.estimators.proofs.quadrature import normal_rule, product_rule
from tests.algorithm.test_policy_gradient import (
    as_seen,
    at_weights,
    derivative,
    enumerate_actions,
    estimated,
    expected_at_weights,
    plain_gradient,
)
from tests.helpers import ACTION_SPACES, TinyEnv, float64_model, in_full, randomise

ALGORITHM = {name: RecurrentLAXA2C if name == "box" else RecurrentRELAXA2C for name in ACTION_SPACES}
SMALL = dict(lstm_hidden_size=4, net_arch=dict(pi=[5], vf=[5], cv=[6]))


def tiny(space, n_envs=2, **kwargs):
    return make_vec_env(lambda: TinyEnv(ACTION_SPACES[space], **kwargs), n_envs, seed=0)


def small(space, env=None, policy_kwargs=None, **kwargs):
    """A small model on TinyEnv, whose episodes of 7 steps do not fit into rollouts of 10; ĉ's weights matter."""
    kwargs = dict(n_steps=10, seed=0, device="cpu", policy_kwargs={**SMALL, **(policy_kwargs or {})}, **kwargs)
    model = ALGORITHM[space]("MlpLstmPolicy", env or tiny(space), **kwargs)
    randomise(model)
    return model


def rollout(model):
    """One rollout as an update gets it, and the same steps in the same order as sb3-contrib's buffer gives them."""
    model.learn(model.n_steps * model.n_envs)
    np.random.seed(1)  # noqa: NPY002  where the buffer starts its sequences
    batch = next(model.rollout_class.of(model.rollout_buffer).batches(model.view.dtype))
    np.random.seed(1)  # noqa: NPY002
    return batch, next(model.rollout_buffer.get(batch_size=None))


def in_float64(algorithm, space, **kwargs):
    """A float64 model and, for n copies of one state, what the policy needs: a past, so LSTM states that matter."""
    sizes = dict(lstm_hidden_size=4)
    model = float64_model(algorithm, TinyEnv(space), "MlpLstmPolicy", policy_kwargs=sizes, **kwargs)
    past = th.randn(4, 1, 1, 4, dtype=th.float64)

    def context(n):
        pi_h, pi_c, vf_h, vf_c = past.expand(4, 1, n, 4).contiguous()
        return {"lstm_states": RNNStates((pi_h, pi_c), (vf_h, vf_c)), "episode_starts": th.zeros(n)}

    return model, context


def padded(context):
    return lambda n: {**context(n), "mask": th.ones(n, dtype=th.bool)}


@pytest.mark.parametrize(
    ("space", "correction"),
    [
        *(
            (space, how)
            for space in (spaces.Discrete(2), spaces.MultiBinary(2))
            for how in ("coupled", "relaxed", "exact")
        ),
        # its Gumbels are too many to integrate: without a memory tests/test_policy_gradient.py has z-scores
        (spaces.MultiDiscrete([2, 3]), "exact"),
    ],
    ids=str,
)
def test_expectation_given_the_past_is_that_of_the_plain_score_function(space, correction):
    model, context = in_float64(RecurrentRELAXA2C, space, correction=correction, init_temperature=0.9)
    obs, actions = th.randn(1, 3), enumerate_actions(model.action_space)
    n = len(actions)
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(obs.expand(n, 3), as_seen(model, actions), **context(n))
    probability, advantages = log_prob.exp(), th.randn(n, dtype=th.float64) * 3
    exact = plain_gradient(model, obs.expand(n, 3), actions, probability * advantages, **context(n))
    ours = expected_at_weights(model, obs, actions, probability, advantages, 60, widen=padded(context))
    assert exact.abs().max() > 0.01
    assert (ours - exact).abs().max() < 1e-9


def test_box_given_the_past():
    model, context = in_float64(RecurrentLAXA2C, ACTION_SPACES["box"])
    node, weight = (th.cat(part) for part in zip(*product_rule(normal_rule(80), 2), strict=True))
    obs, n = th.randn(1, 3), len(node)
    model.policy.evaluate_actions(obs.expand(n, 3), node, **context(n))
    normal = model.policy.action_dist.distribution
    actions = (normal.mean + normal.stddev * node).detach()
    advantages = actions[:, 0] ** 3 - 2 * actions[:, 0] * actions[:, 1]
    exact = plain_gradient(model, obs.expand(n, 3), actions, weight * advantages, **context(n))
    step = model.view.evaluate(obs.expand(n, 3), actions, **padded(context)(n))
    estimate = estimated(model, step, advantages)
    assert (estimate.grad - estimate.score_term).abs().max() > 0.1  # ĉ is at work
    assert exact.abs().max() > 0.01
    assert (at_weights(model, estimate, weight) - exact).abs().max() < 1e-9


def test_through_time_it_is_the_gradient_of_the_expected_return():
    """Every sequence of three actions, each reward depending on the actions so far, by autograd on the sum itself."""
    model, context = in_float64(RecurrentRELAXA2C, spaces.MultiBinary(2), correction="exact", cv_guard=False)
    sequences = list(itertools.product(itertools.product([0, 1], repeat=2), repeat=3))
    actions, n = th.tensor(sequences, dtype=th.float64), len(sequences)
    obs = th.randn(3, 3).expand(n, 3, 3).reshape(n * 3, 3)
    rewards = (actions.sum(2).cumsum(1) - 2).square()  # [n, 3]
    states = {**context(n), "episode_starts": th.zeros(n * 3)}
    _, log_prob, _ = model.policy.evaluate_actions(obs, actions.reshape(n * 3, 2), **states)
    probability = log_prob.reshape(n, 3).sum(1).exp()
    truth = derivative((probability * rewards.sum(1)).sum(), model)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    step = model.view.evaluate(obs, actions.reshape(n * 3, 2), **states, mask=th.ones(n * 3, dtype=th.bool))
    ours = at_weights(model, estimated(model, step, to_go.flatten()), probability.detach().repeat_interleave(3))
    assert (ours - truth).abs().max() < 1e-9
    assert truth.abs().max() > 0.01
    # teeth: as if every sequence were three of one step, the past forgotten
    alone = {**padded(context)(n * 3), "episode_starts": th.ones(n * 3)}
    step = model.view.evaluate(obs, actions.reshape(n * 3, 2), **alone)
    forgetful = at_weights(model, estimated(model, step, to_go.flatten()), probability.detach().repeat_interleave(3))
    assert (forgetful - truth).abs().max() > 1e-3


@pytest.mark.parametrize("space", list(ACTION_SPACES))
def test_padding_enters_nothing(space, monkeypatch):
    """Rubbish in the padded steps changes neither the weights after an update nor what is logged of it."""
    runs = []
    for rubbish in (False, True):
        model = small(space, normalize_advantage=True, n_critic_steps=2, n_cv_steps=2, cv_guard=False, ent_coef=0.01)
        batch, _ = rollout(model)
        pad = ~batch.context["mask"]
        assert 3 < pad.sum() < len(pad) - 10
        assert len(batch.advantages) == len(batch.returns) == (~pad).sum()
        if rubbish:
            observations, actions = batch.observations.clone(), batch.actions.clone()
            observations[pad] = 1e3 * th.randn_like(observations[pad])
            actions[pad] = 1.0
            batch = replace(batch, observations=observations, actions=actions)
        model.noise_generator.manual_seed(1)
        divisors, step = [], model.update_rule.step
        model.update_rule.step = lambda *arguments, step=step, to=divisors: to.append(arguments[3]) or step(*arguments)
        with monkeypatch.context() as patched:
            patched.setattr(RecurrentRollout, "batches", lambda self, dtype, batch=batch: iter([batch]))
            model.train()
        assert divisors == [20]
        runs.append((list(model.policy.parameters()) + list(model.control_variate.parameters()), model))
    for a, b in zip(runs[0][0], runs[1][0], strict=True):
        assert th.equal(a, b)
    logs = [{k: v for k, v in m.logger.name_to_value.items() if k.startswith("train/")} for _, m in runs]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("space", ["discrete", "box"])
def test_a_padded_batch_has_the_gradient_of_its_sequences_one_by_one(space):
    model = small(space, **({} if space == "box" else {"correction": "exact"}), cv_guard=False)
    _, data = rollout(model)
    n = data.lstm_states.pi[0].shape[1]
    length = len(data.mask) // n
    whole = gradient_of(model, data)
    total = {name: 0.0 for name in whole}
    for i in range(n):
        steps = slice(i * length, i * length + int(data.mask[i * length : (i + 1) * length].sum()))
        states = RNNStates(*(tuple(s[:, i : i + 1].contiguous() for s in of_one) for of_one in data.lstm_states))
        one = model.policy_gradient(
            data.observations[steps],
            data.actions[steps],
            data.advantages[steps],
            lstm_states=states,
            episode_starts=data.episode_starts[steps],
        )
        for name, gradient in one.items():
            total[name] = total[name] + gradient * len(data.mask[steps])
    assert n >= 4
    for name, gradient in whole.items():
        assert th.allclose(total[name] / 20, gradient, atol=1e-6), name
    # teeth: with padding in the mean, the gradient is another
    wrong = gradient_of(model, data._replace(mask=th.ones_like(data.mask)))
    assert any(not th.allclose(wrong[name], whole[name], atol=1e-4) for name in whole)


def gradient_of(model, data):
    names = ("observations", "actions", "advantages", "lstm_states", "episode_starts", "mask")
    return model.policy_gradient(**{name: getattr(data, name) for name in names})


def limited():
    return TimeLimit(TinyEnv(spaces.Discrete(3), length=50), 6)


EQUAL = {
    "discrete": ("discrete", None, {}),
    # RecurrentPPO cannot evaluate MultiBinary actions: its buffer keeps them as int8, in which no log-probability is
    "multidiscrete": ("multidiscrete", None, {}),
    "box": ("box", None, {}),
    "gSDE": ("box", None, dict(use_sde=True, sde_sample_freq=4)),
    "time limits": ("discrete", limited, {}),
    "one LSTM for both": ("discrete", None, dict(policy_kwargs=dict(shared_lstm=True, enable_critic_lstm=False))),
    "no memory for V, two layers": (
        "discrete",
        limited,
        dict(policy_kwargs=dict(enable_critic_lstm=False, n_lstm_layers=2)),
    ),
}


@pytest.mark.parametrize("case", EQUAL)
def test_without_control_variate_it_is_recurrent_ppo_s_first_step(case):
    """One epoch over the whole batch from ratio 1 is A2C's step: sb3-contrib's own code, 8 updates of it."""
    space, make_env, more = EQUAL[case]
    more = dict(more)
    rms = dict(optimizer_class=th.optim.RMSprop, optimizer_kwargs=dict(alpha=0.99, eps=1e-5, weight_decay=0))
    policy_kwargs = {**SMALL, **more.pop("policy_kwargs", {})}
    common = dict(n_steps=10, learning_rate=7e-4, gae_lambda=0.9, ent_coef=0.02, seed=3, device="cpu", **more)
    ppo = dict(batch_size=20, n_epochs=1, normalize_advantage=False, clip_range=1e9)

    def learn(algorithm, policy_kwargs, **kwargs):
        env = make_vec_env(make_env, 2, seed=0) if make_env else tiny(space)
        np.random.seed(3)  # noqa: NPY002  where the buffer starts its sequences
        model = algorithm("MlpLstmPolicy", env, policy_kwargs=dict(policy_kwargs), **common, **kwargs)
        return model.learn(8 * 20).policy

    reference = learn(RecurrentPPO, {**policy_kwargs, **rms}, **ppo)
    policy = learn(ALGORITHM[space], policy_kwargs, cv_learning_rate=0.0)
    for (name, a), b in zip(reference.named_parameters(), policy.parameters(), strict=True):
        assert th.allclose(a, b, atol=2e-6, rtol=2e-5), name
    changed = learn(ALGORITHM[space], policy_kwargs, cv_learning_rate=0.03, cv_guard=False)
    pairs = zip(reference.parameters(), changed.parameters(), strict=True)
    assert any(not th.allclose(a, b, atol=2e-6, rtol=2e-5) for a, b in pairs)  # teeth


def test_the_control_variate_reads_what_the_actor_remembers():
    model = small("discrete")
    batch, data = rollout(model)
    step = model.view.evaluate(batch.observations, batch.actions, **batch.context)
    features = model.policy.extract_features(data.observations)
    expected, _ = model.policy._process_sequence(
        features, data.lstm_states.pi, data.episode_starts, model.policy.lstm_actor
    )
    assert th.allclose(step.features, expected[data.mask > 0], atol=1e-6)
    assert not step.features.requires_grad
    # another first observation of the longest sequence is remembered at its last step, and nowhere else
    sequences = (data.mask > 0).reshape(data.lstm_states.pi[0].shape[1], -1)
    longest = int(sequences.sum(1).argmax())
    other = batch.observations.reshape(*sequences.shape, 3).clone()
    other[longest, 0] += 1
    changed = th.zeros(*sequences.shape, 4)
    again = model.view.evaluate(other.reshape(-1, 3), batch.actions, **batch.context)
    changed[sequences] = (again.features - step.features).detach()
    assert (changed[longest, sequences[longest]].abs().amax(1) > 1e-6).all()
    changed[longest] = 0
    assert (changed == 0).all()


@pytest.mark.parametrize("objective", ["distribution", "weights"])
@pytest.mark.parametrize("space", list(ACTION_SPACES))
def test_learns_saves_and_goes_on(space, objective, tmp_path):
    kwargs = dict(cv_objective=objective, n_cv_steps=2, n_critic_steps=2)
    model = small(space, **kwargs)
    before = [p.detach().clone() for p in (*model.policy.parameters(), *model.control_variate.parameters())]
    model.learn(200)
    after = [*model.policy.parameters(), *model.control_variate.parameters()]
    assert all(p.isfinite().all() for p in after)
    assert not any(th.equal(a, b) for a, b in zip(before, after, strict=True) if b.numel() > 4)
    model.save(tmp_path / "agent")
    loaded = ALGORITHM[space].load(tmp_path / "agent", env=tiny(space), device="cpu")
    again = [*loaded.policy.parameters(), *loaded.control_variate.parameters()]
    assert all(th.equal(a, b) for a, b in zip(after, again, strict=True))
    assert loaded.rollout_buffer_class is RecurrentRolloutBuffer
    assert all((state == 0).all() for of_one in loaded._last_lstm_states for state in of_one)
    obs = np.zeros((2, 3), np.float32)
    first, state = loaded.predict(obs, deterministic=True)
    assert np.array_equal(first, model.predict(obs, deterministic=True)[0])
    assert state[0].shape == (1, 2, 4)
    assert loaded.learn(40, reset_num_timesteps=False).num_timesteps == 240


@pytest.mark.parametrize("space", list(ACTION_SPACES))
def test_whole_episodes(space, tmp_path):
    """A sequence is an episode from its start, in which nothing is remembered, but for the one that is cut in two."""
    model = small(space, n_episodes=5).learn(300)
    assert all(p.isfinite().all() for p in model.policy.parameters())
    assert model.rollout_buffer.rewards.shape == (35, 1)
    model.save(tmp_path / "agent")
    loaded = ALGORITHM[space].load(tmp_path / "agent", env=tiny(space), device="cpu")
    assert loaded.n_episodes == 5
    assert loaded.learn(100, reset_num_timesteps=False).num_timesteps >= 400
    np.random.seed(2)  # noqa: NPY002  where the buffer starts its sequences
    batch = next(model.rollout_class.of(model.rollout_buffer).batches(model.view.dtype))
    lengths = batch.context["mask"].reshape(-1, 7).sum(1).tolist()
    assert sorted(lengths) == sorted([7] * 4 + [lengths[0], 7 - lengths[0]])
    assert 0 < lengths[0] < 7
    for of_one in batch.context["lstm_states"]:
        goes_on = [state[0].abs().sum(1) > 0 for state in of_one]
        assert all(of.tolist() == [True] + [False] * 5 for of in goes_on)


def test_dict_observations():
    space = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (3,), np.float32), "b": spaces.Discrete(4)})
    env = make_vec_env(lambda: TinyEnv(spaces.Discrete(3), observation_space=space), 2, seed=0)
    model = RecurrentRELAXA2C("MultiInputLstmPolicy", env, seed=0, device="cpu", n_steps=10, policy_kwargs=SMALL)
    model.learn(60)
    assert model._n_updates == 3
    gradient = gradient_of(model, next(model.rollout_buffer.get()))
    assert gradient["lstm_actor.weight_ih_l0"].abs().max() > 0


def test_images():
    """A policy without layers between LSTM and action: ĉ reads the LSTM all the same."""
    images = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    env = make_vec_env(lambda: TinyEnv(spaces.Discrete(3), observation_space=images), 2, seed=0)
    model = RecurrentRELAXA2C("CnnLstmPolicy", env, seed=0, device="cpu", policy_kwargs=dict(lstm_hidden_size=8))
    assert in_full(model.learn(20)).network.state_layer.in_features == 8


def test_further_critic_steps_move_nothing_of_the_actor_s():
    model = small("discrete", n_critic_steps=4)
    batch, _ = rollout(model)
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    model.critic.fit(batch, None, model.vf_coef, model.max_grad_norm, model.noise_generator)
    moved = {name for name, p in model.policy.named_parameters() if not th.equal(p, before[name])}
    assert moved == {name for name in before if "critic" in name or "value" in name}


class Recall(gym.Env):
    """The first observation says what to do two steps later, when there is nothing to see."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.goal = 0, int(self.np_random.integers(2))
        return np.array([2 * self.goal - 1, 0], np.float32), {}

    def step(self, action):
        self.t += 1
        reward = float(action == self.goal) if self.t == 3 else 0.0
        return np.array([0, self.t / 3], np.float32), reward, self.t == 3, False, {}


def test_what_was_seen_two_steps_ago_is_remembered():
    def learn(algorithm, policy, **policy_kwargs):
        env = make_vec_env(Recall, 8, seed=0)
        arguments = dict(n_steps=6, learning_rate=1e-2, use_rms_prop=False, gae_lambda=0.9, seed=0, device="cpu")
        model = algorithm(policy, env, policy_kwargs=policy_kwargs, **arguments).learn(3500)
        return evaluate_policy(model, make_vec_env(Recall, 8, seed=1), 100)[0]

    assert learn(RecurrentRELAXA2C, "MlpLstmPolicy", lstm_hidden_size=16) > 0.95
    assert learn(RELAXA2C, "MlpPolicy") < 0.7  # teeth


def test_errors_say_what_is_allowed():
    with pytest.raises(ValueError, match=r"no policy 'MlpLstmPolicy'; it has MlpPolicy.*RecurrentLAXA2C"):
        LAXA2C("MlpLstmPolicy", "Pendulum-v1")
    with pytest.raises(ValueError, match=r"use sb3_relax.*RecurrentRELAXA2C"):
        RELAXA2C(RecurrentActorCriticPolicy, "CartPole-v1")
    with pytest.raises(ValueError, match="no policy 'MlpPolicy'; it has MlpLstmPolicy"):
        RecurrentRELAXA2C("MlpPolicy", "CartPole-v1")
    with pytest.raises(ValueError, match="derive from sb3-contrib's RecurrentActorCriticPolicy"):
        RecurrentRELAXA2C(RELAXA2C.policy_aliases["MlpPolicy"], "CartPole-v1")
    with pytest.raises(ValueError, match="squash_output must be False"):
        RecurrentLAXA2C("MlpLstmPolicy", "Pendulum-v1", use_sde=True, policy_kwargs=dict(squash_output=True))
    with pytest.raises(ValueError, match=r"use sb3_relax\.RecurrentRELAXA2C instead"):
        RecurrentLAXA2C("MlpLstmPolicy", "CartPole-v1")
    parts = TinyEnv(ACTION_SPACES["discrete"], observation_space=spaces.Dict(a=spaces.Box(-1, 1, (3,))))
    for scaled in (False, True):
        with pytest.raises(
            ValueError, match=r"a Dict need MultiInputLstmPolicy: .*'s FlattenExtractor reads one array"
        ):
            RecurrentRELAXA2C("MlpLstmPolicy", parts, normalize_observations=scaled)
