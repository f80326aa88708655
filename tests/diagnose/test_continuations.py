"""Â of continuations is the Â of SB3's own buffer."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.diagnose import diagnose, measure
from sb3_relax.diagnose.acting import act
from sb3_relax.diagnose.continuations import _advantages
from sb3_relax.diagnose.restore import EnvSource
from tests.helpers import ACTION_SPACES, TinyEnv

LAMBDAS = (1.0, 0.5, 0.0)
LITTLE = dict(
    lambdas=(1.0,), n_states=8, n_actions=2, n_futures=2, n_episodes=4, n_rollouts=4, n_fit_steps=32, n_fit_updates=2
)


class Chain(gym.Env):
    """Seven steps, whatever the action."""

    observation_space = spaces.Box(-1, 10, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.array([self.t / 3], np.float32), float(self.t**2 % 5), self.t == 7, False, {}


def terminated():
    return Chain()


def truncated():
    return TimeLimit(Chain(), 5)


def visited(make, length, **kwargs):
    """An agent with a V that matters, a snapshot at each step of an episode, and V there."""
    model = RELAXA2C("MlpPolicy", make(), seed=0, device="cpu", **kwargs)
    th.manual_seed(0)
    with th.no_grad():
        model.policy.value_net.weight.normal_()
        model.policy.value_net.bias.fill_(2.0)
    source = EnvSource(make)
    env = source.new(0)
    observation, actions, snapshots, values = env.reset(), [], [], []
    for _ in range(length):
        snapshots.append(source.snapshot(env, 0, list(actions)))
        action, value = act(model.policy, observation)
        values.append(value[0])
        observation, *_ = env.step(action[:1])
        actions.append(action[:1])
    return model, snapshots, np.array(values)


def advantages(model, snapshots, values, left, bootstrap_truncated=True):
    starts = [(snapshot, np.array(0), steps) for snapshot, steps in zip(snapshots, left, strict=True)]
    rng = np.random.default_rng(0)
    found = _advantages(model.policy, starts, values.copy(), np.array(LAMBDAS), model.gamma, rng, bootstrap_truncated)
    return found[0]


@pytest.mark.parametrize(("make", "length"), [(terminated, 7), (truncated, 5)])
def test_equal_to_sb3s_gae(make, length):
    model, snapshots, values = visited(make, length, n_steps=12)
    _, callback = model._setup_learn(0, None)
    buffer = model.rollout_buffer
    model.collect_rollouts(model.env, callback, buffer, 12)
    last = model.policy.predict_values(model.policy.obs_to_tensor(model._last_obs)[0]).detach()
    at = np.arange(12) % length
    ours = advantages(model, [snapshots[t] for t in at], values[at], 12 - np.arange(12))
    for i, gae_lambda in enumerate(LAMBDAS):
        buffer.gae_lambda = gae_lambda
        buffer.compute_returns_and_advantage(last, model._last_episode_starts)
        assert ours[i] == pytest.approx(buffer.advantages[:, 0], abs=1e-5)


@pytest.mark.parametrize("bootstrap_truncated", [True, False])
def test_whole_episodes_bootstrap_as_the_agent_does(bootstrap_truncated):
    kwargs = dict(n_episodes=1, max_episode_steps=10, bootstrap_truncated=bootstrap_truncated, gae_lambda=0.5)
    model, snapshots, values = visited(truncated, 5, **kwargs)
    _, callback = model._setup_learn(0, None)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 5)
    ours = advantages(model, snapshots, values, [10**9] * 5, bootstrap_truncated)
    assert ours[1] == pytest.approx(model.rollout_buffer.advantages[:, 0], abs=1e-5)


@pytest.mark.parametrize("n_steps", [None, 4])
def test_the_agents_flag_is_passed_on(monkeypatch, n_steps):
    seen = []
    right = measure.continue_states

    def continue_states(*args, bootstrap_truncated, **others):
        seen.append(bootstrap_truncated)
        return right(*args, bootstrap_truncated=bootstrap_truncated, **others)

    monkeypatch.setattr(measure, "continue_states", continue_states)
    env = TinyEnv(spaces.Discrete(3))
    model = RELAXA2C("MlpPolicy", env, n_episodes=1, bootstrap_truncated=False, device="cpu", seed=0)
    diagnose(model, env, n_steps=n_steps, **LITTLE)
    assert seen == [n_steps is not None]


def test_gsde_draws_a_noise_matrix_for_every_step(monkeypatch):
    seen = []
    right = measure.rollouts

    def rollouts(model, *args):
        seen.append(model.sde_sample_freq)
        return right(model, *args)

    def gradient_grams(model, *args):
        seen.append(model.sde_sample_freq)
        return grams(model, *args)

    grams = measure.gradient_grams
    monkeypatch.setattr(measure, "rollouts", rollouts)
    monkeypatch.setattr(measure, "gradient_grams", gradient_grams)
    env = TinyEnv(ACTION_SPACES["box"])
    model = LAXA2C("MlpPolicy", env, use_sde=True, device="cpu", seed=0)
    diagnose(model, env, **LITTLE)
    assert seen == [1, 1]
