"""The last rollouts, to which V is fitted again: their targets, what is kept, and what it does for V."""

import copy
import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecEnvWrapper

from sb3_relax import LAXA2C, RELAXA2C, HybridRELAXA2C, MaskableRELAXA2C, RecurrentRELAXA2C
from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.critic_replay import v_trace
from tests.helpers import ACTION_SPACES, TinyEnv

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
DICT = spaces.Dict({"a": BOX, "b": spaces.Discrete(4), "c": spaces.Box(-1.0, 1.0, (2,), np.float32)})


def clip(ratio):
    return min(1.0, ratio)


def paper_target(s, rewards, values, last_value, ends, ratios, last_error, gamma, gae_lambda):
    """v_s of one environment as the paper's sum: V(x_s) + Σ_t γ^(t-s) (Π_{s≤i<t} c_i) ρ_t δ_t, to the episode's end.

    Beyond the last step the sum has ``last_error`` in the place of further terms.
    """
    total, product = values[s], 1.0
    for t in range(s, len(rewards)):
        following = 0.0 if ends[t] else (values[t + 1] if t + 1 < len(rewards) else last_value)
        total += gamma ** (t - s) * product * clip(ratios[t]) * (rewards[t] + gamma * following - values[t])
        if ends[t]:
            break
        product *= gae_lambda * clip(ratios[t])
    else:
        total += gamma ** (len(rewards) - s) * product * last_error
    return total


def paper_targets(rewards, values, last_values, ends, ratios, gamma, gae_lambda, last_errors=None):
    last_errors = np.zeros(rewards.shape[1]) if last_errors is None else last_errors
    of_env = zip(rewards.T, values.T, last_values, ends.T, ratios.T, last_errors, strict=True)
    return np.array([[paper_target(s, *series, gamma, gae_lambda) for s in range(len(rewards))] for series in of_env]).T


@pytest.mark.parametrize("last_errors", [False, True])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("length", [1, 12])
def test_targets_are_the_papers_sum(length, gae_lambda, last_errors):
    rng = np.random.default_rng(0)
    shape = (length, 5)
    rewards, values = rng.normal(size=(2, *shape))
    last_values = rng.normal(size=shape[1])
    ends = rng.random(shape) < 0.25
    ratios = np.exp(rng.normal(size=shape))
    assert ratios.min() < 1 < ratios.max()
    assert ends.any()
    data = rewards, values, last_values, ends, ratios, 0.9, gae_lambda
    data = (*data, rng.normal(size=shape[1])) if last_errors else data
    assert np.allclose(v_trace(*data), paper_targets(*data), rtol=1e-12, atol=1e-12)


class Masked(TinyEnv):
    def action_masks(self):
        return [True, self.t % 2 == 0, True]


class Limited(TinyEnv):
    """Episodes that end or that a time limit cuts, by chance; rewards depend on the observation as well."""

    def reset(self, **kwargs):
        self.obs, info = super().reset(**kwargs)
        return self.obs, info

    def step(self, action):
        before = self.obs
        self.obs, reward, over, _, info = super().step(action)
        if isinstance(before, np.ndarray):
            reward += float(before.sum())
        cut = over and self.np_random.random() < 0.5
        return self.obs, reward, over and not cut, cut, info


class Parts(TinyEnv):
    """Actions of several parts, the first of which is rewarded."""

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        return self._observe(), float(action[0]), self.t >= self.length, False, {}


def build(
    cls=RELAXA2C, actions="discrete", observations=None, env=Limited, length=(7,), n_envs=3, policy=None, **kwargs
):
    """Small agents, with rollouts of ten steps; each environment has the next length of episodes."""
    lengths = itertools.cycle(length)
    action_space = ACTION_SPACES[actions] if isinstance(actions, str) else actions
    policy = policy or ("MultiInputPolicy" if isinstance(observations, spaces.Dict) else "MlpPolicy")
    arguments = dict(n_steps=10, gae_lambda=0.9, n_critic_steps=3, critic_replay=3, use_rms_prop=False)
    return cls(
        policy,
        make_vec_env(lambda: env(action_space, next(lengths), observations), n_envs=n_envs, seed=0),
        policy_kwargs={"net_arch": [8], **kwargs.pop("policy_kwargs", {})},
        seed=0,
        device="cpu",
        **{**arguments, **kwargs},
    )


def joined_in(model):
    """What V's further steps of every update were on, in a list that fills while the model learns."""
    seen = []
    joined_by = model.critic.replay.joined_by

    def spy(batch, rollout):
        earlier = [*model.critic.replay.rollouts]
        state = copy.deepcopy(model.policy.state_dict())
        joined = joined_by(batch, rollout)
        seen.append((joined, batch, earlier, state))
        return joined

    model.critic.replay.joined_by = spy
    return seen


class Dropped(FlattenExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.dropout = th.nn.Dropout(0.5)

    def forward(self, observations):
        return self.dropout(super().forward(observations))


CASES = {
    "discrete": {},
    "multidiscrete": dict(actions="multidiscrete"),
    "multibinary": dict(actions="multibinary"),
    "Dict observations": dict(observations=DICT),
    "Discrete observations": dict(observations=spaces.Discrete(5)),
    "box": dict(cls=LAXA2C, actions="box"),
    "gSDE": dict(cls=LAXA2C, actions="box", use_sde=True),
    "squashed gSDE": dict(cls=LAXA2C, actions="box", use_sde=True, policy_kwargs=dict(squash_output=True)),
    "masked": dict(cls=MaskableRELAXA2C, env=Masked),
    "hybrid": dict(cls=HybridRELAXA2C, env=Parts, actions=spaces.Tuple((spaces.Discrete(3), ACTION_SPACES["box"]))),
    "whole episodes": dict(n_episodes=4),
    "whole episodes, without bootstrap": dict(n_episodes=4, bootstrap_truncated=False),
    "masked, whole episodes": dict(cls=MaskableRELAXA2C, env=Masked, n_episodes=4),
    "one environment": dict(n_envs=1),
    "some episodes end with the rollout": dict(length=(5, 7, 4)),
    "dropout": dict(policy_kwargs=dict(features_extractor_class=Dropped)),
    "minibatches": dict(critic_batch_size=8),
    "its own scaled rate": dict(critic_learning_rate=0.01, normalize_returns=True, critic_batch_size=8),
    "natural gradient": dict(update_rule="kfac"),
    "rewards beyond the action": dict(normalize_advantage=True, ent_coef=0.01),
}


#: nothing goes on into the next rollout
EPISODES = ("whole episodes", "whole episodes, without bootstrap")

#: where something besides the weights moves at every update
MOVING = {"observations normalised": dict(normalize_observations=True)}


def kept_in(model):
    """Rollouts with the observations and the episodes' ends after them, in a list that fills while the model learns."""
    kept, remember = [], model.critic.remember

    def spy(batch, rollout, last_obs, dones):
        kept.append(copy.deepcopy((rollout, last_obs, dones)))
        remember(batch, rollout, last_obs, dones)

    model.critic.remember = spy
    return kept


def ends_of(rollout, dones):
    return np.concatenate([rollout.episode_starts[1:], np.asarray(dones)[None]]) > 0


def in_time(joined):
    """Targets of joined rollouts, ``[T, E]``."""
    return joined.returns.numpy()[np.argsort(joined.order)].reshape(joined.shape[1], -1).T


@pytest.mark.parametrize("critic_lambda", [None, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_targets_are_gaes_of_one_long_rollout_while_nothing_moves(name, critic_lambda):
    """Every rate at 0: the policy and V are those that acted, and λ-returns only know more of what came after."""
    rates = {"critic_learning_rate": 0.0} if "critic_learning_rate" in CASES[name] else {}
    model = build(
        **{**CASES[name], **rates}, learning_rate=0.0, cv_learning_rate=0.0, critic_lambda=critic_lambda, gamma=0.9
    )
    kept, seen = kept_in(model), joined_in(model)
    model.learn(100)
    *earlier, (newest, _, _) = kept[-3:]
    rewards, values = (
        np.concatenate([getattr(rollout, of) for rollout, *_ in earlier]) for of in ("rewards", "values")
    )
    ends = np.concatenate([ends_of(rollout, dones) for rollout, _, dones in earlier])
    assert ends.any()
    expected = paper_targets(
        rewards,
        values,
        newest.values[0],
        ends,
        np.ones_like(values),
        model.gamma,
        critic_lambda or model.gae_lambda,
        newest.returns[0] - newest.values[0],
    )
    targets = in_time(seen[-1][0])
    assert expected.std() > 0.1
    assert np.allclose(targets[: len(expected)], expected, rtol=1e-5, atol=1e-5)
    assert np.allclose(targets[len(expected) :], newest.returns, rtol=1e-6, atol=2e-6)
    apart = np.concatenate([rollout.returns for rollout, *_ in earlier])
    assert np.allclose(targets[: len(expected)], apart, atol=1e-3) == (
        name.endswith(EPISODES) and critic_lambda is None
    )


def test_a_return_does_not_go_on_where_the_environment_was_reset():
    """A new call of learn() begins episodes anew, and ends none: V of the state before stands for what came after."""
    model = build(learning_rate=0.0, cv_learning_rate=0.0, length=(100,))
    kept, seen = kept_in(model), joined_in(model)
    model.learn(30).learn(30)
    (earlier, _, dones), (newest, *_) = kept
    assert not np.any(dones)
    assert newest.episode_starts[0].all()
    assert np.allclose(in_time(seen[-1][0]), np.concatenate([earlier.returns, newest.returns]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("observations", [BOX, DICT], ids=["Box", "Dict"])
def test_a_return_does_not_go_on_where_steps_are_missing(observations):
    """A callback may stop a rollout, of which no step is kept; the next learn() goes on behind it."""
    model = build(learning_rate=0.0, cv_learning_rate=0.0, length=(100,), observations=observations)
    kept, seen = kept_in(model), joined_in(model)
    model.learn(30)
    model.learn(30, lambda locals_, _: locals_["n_steps"] < 4, reset_num_timesteps=False)
    model.learn(30, reset_num_timesteps=False)
    (earlier, _, dones), (newest, *_) = kept
    assert not np.any(dones)
    assert not newest.episode_starts[0].any()
    assert np.allclose(in_time(seen[-1][0]), np.concatenate([earlier.returns, newest.returns]), rtol=1e-5, atol=1e-5)


class InDouble(VecEnvWrapper):
    """Observations that the buffer's dtype, which is the space's, has to round."""

    def reset(self):
        return self.venv.reset().astype(np.float64) / 3

    def step_wait(self):
        obs, *rest = self.venv.step_wait()
        return obs.astype(np.float64) / 3, *rest


def test_a_return_goes_on_where_the_buffer_rounds_observations():
    model = build(learning_rate=0.0, cv_learning_rate=0.0, length=(100,))
    model.set_env(InDouble(model.get_env()))
    kept, seen = kept_in(model), joined_in(model)
    model.learn(60)
    (earlier, last_obs, _), (newest, *_) = kept
    assert not np.array_equal(last_obs, newest.observations[0])
    assert not np.allclose(in_time(seen[-1][0])[:10], earlier.returns, atol=1e-3)


@pytest.mark.parametrize(
    "name", ["discrete", "Dict observations", "masked", "box", "whole episodes", "one environment", *MOVING]
)
def test_targets_are_the_papers_by_the_policy_and_v_of_today(name):
    """Read off SB3's policy step by step, and summed as in the paper; every time limit's γV is the one at the time."""
    model = build(**{**CASES, **MOVING}[name], learning_rate=0.03)
    kept, seen = kept_in(model), joined_in(model)
    model.learn(150)
    joined, newest, _, state = seen[3]
    model.policy.load_state_dict(state)
    model.policy.set_training_mode(False)
    by_step, moved, cut = in_time(joined), [], []
    following, begins = in_time(newest)[0], kept[3][0].episode_starts[0]
    stop = len(by_step) - len(kept[3][0].rewards)
    # the newest keeps the targets it came with
    assert np.array_equal(by_step[stop:], in_time(newest))
    for rollout, last_obs, dones in reversed(kept[1:3]):
        values, log_probs = np.empty((2, *rollout.shape))
        for t, e in np.ndindex(rollout.shape):
            obs = rollout.observations
            one = {key: part[t, e] for key, part in obs.items()} if isinstance(obs, dict) else obs[t, e]
            tensor, _ = model.policy.obs_to_tensor(one)
            action = model.rollout_buffer.to_torch(rollout.actions[t, e : e + 1].astype(np.float32))
            context = {name: part[t, e : e + 1] for name, part in rollout.context.items()}
            with th.no_grad():
                discrete = isinstance(model.action_space, spaces.Discrete)
                action = action.long().flatten() if discrete else action
                value, log_prob, _ = model.policy.evaluate_actions(tensor, action, **context)
            values[t, e], log_probs[t, e] = value.item(), log_prob.item()
        last_values = np.zeros(rollout.shape[1])
        if last_obs is not None:
            with th.no_grad():
                last_values = model.policy.predict_values(model.policy.obs_to_tensor(last_obs)[0]).numpy().ravel()
        ratios = np.exp(log_probs - rollout.log_probs)
        moved.append(np.abs(ratios - 1).max())
        ends = ends_of(rollout, dones)
        targets = paper_targets(
            rollout.rewards,
            values,
            last_values,
            ends,
            ratios,
            model.gamma,
            model.gae_lambda,
            np.where(begins, 0, following - last_values),
        )
        cut.append(rollout.truncations.any())
        assert ends.any()
        assert np.allclose(by_step[stop - len(targets) : stop], targets, rtol=1e-4, atol=1e-4)
        assert not np.allclose(rollout.returns, targets, rtol=1e-2, atol=1e-2)
        stop -= len(targets)
        following, begins = targets[0], rollout.episode_starts[0]
    assert stop == 0
    assert max(moved) > 0.05
    assert any(cut) == (name != "masked")


def weights_of(model):
    return th.cat([p.detach().flatten() for p in model.policy.parameters()])


def test_the_first_update_has_nothing_to_replay():
    alone, replaying = (build(critic_replay=n).learn(30) for n in (1, 4))
    assert alone.critic.replay is None
    assert th.equal(weights_of(alone), weights_of(replaying))
    assert not th.equal(weights_of(alone.learn(30)), weights_of(replaying.learn(30)))


def test_the_oldest_rollout_is_dropped():
    model = build(critic_replay=3)
    seen = joined_in(model)
    model.learn(150)
    assert [joined.shape for joined, *_ in seen] == [(10, 3), (20, 3), (30, 3), (30, 3), (30, 3)]
    newest = [batch.observations for _, batch, *_ in seen]
    assert th.equal(seen[4][0].observations, th.cat(newest[2:]))
    assert [
        th.equal(kept.batch.observations, obs)
        for kept, obs in zip(model.critic.replay.rollouts, newest[3:], strict=True)
    ]
    joined = seen[4][0]
    assert sorted(joined.order) == list(range(90))  # a rollout that is three times as long
    assert th.equal(joined.at(th.tensor([3, 40])).returns, joined.returns[[3, 40]])


def test_minibatches_are_of_all_rollouts():
    model = build(critic_batch_size=9)
    joined = joined_in(model)
    model.learn(150)
    seen = []
    loss = model.critic.loss
    model.critic.loss = lambda values, returns: (seen.append(returns), loss(values, returns))[1]
    model.critic.n_steps = 11
    model.learn(30)
    # after the joint step, ten minibatches are all of the three rollouts
    assert sorted(th.cat(seen[1:]).tolist()) == sorted(joined[-1][0].returns.tolist())


def test_a_batch_is_not_in_v_before_its_advantages_are_taken():
    model = build()
    gradient = model.control_variate.gradient
    known = []

    def spy(output, signal, generator):
        known.append([kept.batch.observations for kept in model.critic.replay.rollouts])
        return gradient(output, signal, generator)

    model.control_variate.gradient = spy
    seen = joined_in(model)
    model.learn(120)
    for before, (_, batch, *_) in zip(known, seen, strict=True):
        assert not any(th.equal(observations, batch.observations) for observations in before)
    assert [len(before) for before in known] == [0, 1, 2, 2]


@pytest.mark.parametrize("observations", [BOX, DICT], ids=["Box", "Dict"])
def test_what_is_kept_is_a_copy_without_a_graph(observations):
    def parts(of):
        return [*of.values()] if isinstance(of, dict) else [of]

    model = build(observations=observations).learn(60)
    kept = model.critic.replay.rollouts[-1]
    before = [part.clone() for part in parts(kept.last_obs)]
    for part in parts(model._last_obs):
        part[...] = 0
    model.rollout_buffer.rewards[...] = np.nan
    model.rollout_buffer.log_probs[...] = np.nan
    assert all(map(th.equal, parts(kept.last_obs), before))
    assert all(part.any() for part in before)
    assert np.isfinite([kept.rewards, kept.log_probs]).all()
    tensors = [*parts(kept.batch.observations), kept.batch.actions, kept.batch.returns, *parts(kept.last_obs)]
    assert not any(tensor.requires_grad for tensor in tensors)


def test_training_goes_on_with_it_and_a_loaded_agent_begins_without(tmp_path):
    model = build().learn(60)
    twin = copy.deepcopy(model)
    model.save(tmp_path / "agent")
    loaded = RELAXA2C.load(tmp_path / "agent", env=model.get_env(), device="cpu")
    assert loaded.critic_replay == 3
    assert not loaded.critic.replay.rollouts
    assert len(twin.critic.replay.rollouts) == 2
    for agent in (model, twin):
        agent.set_random_seed(1)
        seen = joined_in(agent)
        agent.learn(60, reset_num_timesteps=False)
        assert [joined.shape[0] for joined, *_ in seen] == [30, 30]
    assert th.equal(weights_of(model), weights_of(twin))
    assert len(loaded.learn(30).critic.replay.rollouts) == 1


class Drift(gym.Env):
    """Eight numbers that go back to 0 by themselves; the reward is the first of them, and noise. V is linear."""

    observation_space = spaces.Box(-np.inf, np.inf, (8,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.normal(size=8)
        return self.at.astype(np.float32), {}

    def step(self, action):
        reward = float(self.at[0] + self.np_random.normal())
        self.at = 0.8 * self.at + 0.6 * self.np_random.normal(size=8)
        return self.at.astype(np.float32), reward, False, False, {}


def unexplained(n_rollouts, seed, gamma=0.7):
    """The share of the variance of held-out states' returns that a linear V leaves, after 20 rollouts of 16 steps."""
    model = RELAXA2C(
        "MlpPolicy",
        make_vec_env(Drift, n_envs=2, seed=seed),
        n_steps=8,
        gamma=gamma,
        learning_rate=0.0,
        critic_learning_rate=0.1,
        n_critic_steps=20,
        critic_replay=n_rollouts,
        use_rms_prop=False,
        max_grad_norm=10.0,
        policy_kwargs=dict(net_arch=[]),
        seed=seed,
        device="cpu",
    ).learn(320)
    env = Drift()
    obs, _ = env.reset(seed=1000 + seed)
    observations, rewards = [], []
    for _ in range(2000):
        observations.append(obs)
        obs, reward, *_ = env.step(0)
        rewards.append(reward)
    returns = np.convolve(rewards[::-1], gamma ** np.arange(30))[: len(rewards)][::-1]
    with th.no_grad():
        values = model.policy.predict_values(th.as_tensor(np.array(observations))).numpy().ravel()
    return np.var(returns[:-30] - values[:-30]) / np.var(returns[:-30])


def test_v_explains_more_of_a_rollout_it_has_not_seen():
    alone, replaying = ([unexplained(n, seed) for seed in range(3)] for n in (1, 8))
    assert np.less(replaying, alone).all()
    assert np.mean(replaying) < 0.85 * np.mean(alone)


def test_what_cannot_be_replayed_is_refused():
    with pytest.raises(UsageError, match="critic_replay must be a whole number >= 1"):
        build(critic_replay=0)
    with pytest.raises(UsageError, match="n_critic_steps=1 has none: leave it out, or set n_critic_steps"):
        build(n_critic_steps=1)
    with pytest.raises(UsageError, match="critic_replay must be 1: an earlier rollout has the LSTM's states"):
        build(cls=RecurrentRELAXA2C, policy="MlpLstmPolicy")
