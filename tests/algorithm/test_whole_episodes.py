"""Whole-episode updates."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_relax import RELAXA2C, RecurrentRELAXA2C
from tests.helpers import NeverEnding, TinyEnv


class Counting(gym.Env):
    """Observation: which step of which episode this is. Episodes have the lengths given, over and over."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, lengths):
        self.lengths = lengths
        self.episode = -1

    def _obs(self):
        return np.array([self.episode, self.t], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        return self._obs(), 1.0, self.t >= self.lengths[self.episode % len(self.lengths)], False, {}


class Grab(BaseCallback):
    """The buffer at the end of every rollout."""

    def __init__(self):
        super().__init__()
        self.buffers = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        names = ("observations", "rewards", "returns", "episode_starts", "values")
        self.buffers.append({name: getattr(buffer, name).copy() for name in names})


def collect(lengths_per_env, updates_of, **kwargs):
    env = DummyVecEnv([lambda lengths=lengths: Counting(lengths) for lengths in lengths_per_env])
    model = RELAXA2C("MlpPolicy", env, seed=0, device="cpu", gamma=1.0, n_episodes=updates_of, **kwargs)
    grab = Grab()
    model.learn(60, callback=grab)
    return model, grab.buffers


def test_returns_are_the_sums_to_the_end_without_bootstrapping():
    model, buffers = collect([[3, 5]], 2)
    first = buffers[0]
    assert first["rewards"].shape == (8, 1)
    assert first["returns"].flatten() == pytest.approx([3, 2, 1, 5, 4, 3, 2, 1], abs=1e-4)
    assert first["episode_starts"].flatten().tolist() == [1, 0, 0, 1, 0, 0, 0, 0]
    # the next update starts with the next episode, nothing is lost with one environment
    assert buffers[1]["observations"][0, 0].tolist() == [2, 0]
    assert model.num_timesteps == 8 * len(buffers)


def test_several_environments_owe_their_share_so_short_episodes_are_not_favoured():
    _, buffers = collect([[2], [9]], 4)
    for buffer in buffers:
        starts = np.flatnonzero(buffer["episode_starts"])
        assert np.diff([*starts, len(buffer["rewards"])]).tolist() == [2, 2, 9, 9]
        assert buffer["observations"][starts, 0, 1].tolist() == [0, 0, 0, 0]


def test_steps_beyond_the_share_are_counted_and_dropped():
    model, buffers = collect([[2], [9]], 2)
    assert model.num_timesteps == len(buffers) * 9 * 2
    assert all(len(buffer["rewards"]) == 11 for buffer in buffers)


def test_the_logged_episodes_are_those_that_were_used():
    """Those of an environment that has paid its due are the short ones: with them the mean would be theirs."""
    lengths = [[2], [9]]
    env = DummyVecEnv([lambda own=own: Monitor(Counting(own)) for own in lengths])
    model = RELAXA2C("MlpPolicy", env, seed=0, device="cpu", n_episodes=2)
    model.learn(9 * 2 * 3)
    assert [info["l"] for info in model.ep_info_buffer] == [2, 9] * 3


@pytest.mark.parametrize("bootstrap", [True, False])
def test_truncation_is_bootstrapped_as_sb3_does_or_not_at_all(bootstrap):
    env = DummyVecEnv([lambda: TimeLimit(Counting([100]), 4)])
    model = RELAXA2C("MlpPolicy", env, seed=0, device="cpu", gamma=0.5, n_episodes=1, bootstrap_truncated=bootstrap)
    grab = Grab()
    model.learn(4, callback=grab)
    expected = 1.0
    if bootstrap:
        fresh = RELAXA2C("MlpPolicy", env, seed=0, device="cpu")
        terminal = fresh.policy.obs_to_tensor(np.array([[0, 4]], np.float32))[0]
        expected += 0.5 * fresh.policy.predict_values(terminal).item()
        assert abs(expected - 1) > 1e-3
    assert grab.buffers[0]["rewards"][-1, 0] == pytest.approx(expected, abs=1e-5)


def test_an_episode_that_never_ends_is_an_error_that_says_what_to_do():
    model = RELAXA2C("MlpPolicy", NeverEnding(), device="cpu", n_episodes=1, max_episode_steps=50)
    with pytest.raises(RuntimeError, match=r"environment 0 has not ended.*max_episode_steps=50.*TimeLimit"):
        model.learn(1000)
    assert model._n_updates == 0
    assert model.num_timesteps == 50


def test_a_callback_stops_collection():
    model = RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(2)), device="cpu", n_episodes=2)
    model.learn(1000, callback=lambda now, _: now["self" if "self" in now else "model"].num_timesteps < 5)
    assert model.num_timesteps == 5
    assert model._n_updates == 0


@pytest.mark.parametrize(("algorithm", "policy"), [(RELAXA2C, "MlpPolicy"), (RecurrentRELAXA2C, "MlpLstmPolicy")])
def test_with_one_environment_the_first_rollout_is_that_of_n_steps(algorithm, policy):
    """The same actions and values as SB3's (or sb3-contrib's) collection, where both see one whole episode."""
    by_steps = algorithm(policy, make_vec_env(lambda: Counting([6]), 1), seed=0, device="cpu", n_steps=6)
    by_episodes = algorithm(policy, make_vec_env(lambda: Counting([6]), 1), seed=0, device="cpu", n_episodes=1)
    grabs = []
    for model in (by_steps, by_episodes):
        grabs.append(Grab())
        model.set_random_seed(1)
        model.learn(6, callback=grabs[-1])
    for name, value in grabs[0].buffers[0].items():
        assert np.allclose(value, grabs[1].buffers[0][name], atol=1e-6), name
