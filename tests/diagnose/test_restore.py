"""States are restored exactly, by copy or by replay, or said not to be."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils import EzPickle
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from sb3_relax.diagnose.restore import EnvSource, WithoutCopies, clone

FIELDS = ["CartPole-v1", "Pendulum-v1", "MountainCar-v0"]


def play(env, steps=25, seed=0):
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return np.concatenate([np.append(*env.step(np.array([space.sample()]))[:2]) for _ in range(steps)])


def midway(vec_env, steps=10):
    vec_env.seed(3)
    vec_env.reset()
    play(vec_env, steps, seed=1)
    return vec_env


@pytest.mark.parametrize("env_id", [*FIELDS, "Hopper-v5", "Ant-v5"])
def test_a_copy_goes_on_as_its_original(env_id):
    if env_id.endswith("v5"):
        pytest.importorskip("mujoco")
    source = EnvSource(env_id)
    assert source.restore == "copy"
    env = midway(source.new(0))
    twin, later = clone(env), clone(env)
    assert (play(twin) == play(env)).all()
    assert (play(later) == play(clone(midway(source.new(0))))).all()


class Parts(gym.Env):
    """Observations of two parts in arrays that are used again, and episodes that end, or are cut, by chance."""

    observation_space = spaces.Dict({"a": spaces.Box(-9, 9, (2,), np.float32), "b": spaces.Discrete(5)})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.a = np.zeros(2, np.float32)
        return {"a": self.a, "b": 0}, {"begun": True}

    def step(self, action):
        self.a += self.np_random.normal(size=2).clip(-1, 1)
        chance = self.np_random.random()
        return {"a": self.a, "b": int(action)}, float(chance), chance < 0.1, chance > 0.9, {"chance": chance}


@pytest.mark.parametrize("make", [Parts, lambda: gym.make("CartPole-v1", max_episode_steps=9)])
def test_a_copy_is_stepped_as_sb3_steps_its_original(make):
    """Observations, rewards, ends and infos, over many episodes; and what a step has returned stays as it is."""
    env = make_vec_env(make, n_envs=1, seed=0)
    env.reset()
    twin = clone(env)
    assert type(twin) is WithoutCopies
    kept = []
    for step in range(80):
        expected, found = (each.step(np.array([step % 2])) for each in (env, twin))
        for ours, theirs in zip(found[:3], expected[:3], strict=True):
            np.testing.assert_equal(ours, theirs)
            assert type(ours) is type(theirs)
        times = [{**infos[0], "episode": {**infos[0].get("episode", {}), "t": 0}} for infos in (found[3], expected[3])]
        np.testing.assert_equal(*times)
        np.testing.assert_equal(twin.reset_infos, env.reset_infos)
        kept.append((found[:3], copy.deepcopy(found[:3])))
    for returned, then in kept:
        np.testing.assert_equal(returned, then)


def test_deepcopy_would_not():
    """gymnasium's EzPickle makes deepcopy start MuJoCo anew: the reason for clone()."""
    pytest.importorskip("mujoco")
    env = midway(EnvSource("Hopper-v5").new(0))
    fresh = copy.deepcopy(env.envs[0].unwrapped)
    assert fresh.data.time == 0 < env.envs[0].unwrapped.data.time


def test_wrappers_are_copied_with_their_state():
    inner = make_vec_env("CartPole-v1", n_envs=1, seed=0)
    normalised = VecNormalize(inner)
    normalised.reset()
    play(normalised, 100)
    normalised.training = False
    env = midway(VecFrameStack(normalised, 3))
    assert (play(clone(env)) == play(env)).all()
    assert EnvSource(env).restore == "copy"


def test_an_environment_given_whole_is_not_stepped():
    env = midway(make_vec_env("CartPole-v1", n_envs=1, seed=0))
    expected = play(clone(env))
    source = EnvSource(env)
    play(midway(source.new(5)))
    assert (play(env) == expected).all()


class Noisy(gym.Env):
    """A walk with noise from gymnasium's own stream."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.normal()
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.x += action + self.np_random.normal()
        return np.array([self.x], np.float32), float(self.x), False, False, {}


class Uncopyable(Noisy, EzPickle):
    """As Box2D's: parts that cannot be copied, and an EzPickle that hides it."""

    def __init__(self):
        EzPickle.__init__(self)
        self.generator = (i for i in range(3))


class Hidden(Uncopyable):
    """Randomness that no seed reaches."""

    def step(self, action):
        self.x += np.random.default_rng().normal()
        return super().step(action)


@pytest.mark.parametrize("kind", [Noisy, Uncopyable])
def test_each_continuation_has_its_own_future_from_the_same_state(kind):
    source = EnvSource(kind)
    assert source.restore == {Noisy: "copy", Uncopyable: "replay"}[kind]
    env = source.new(3)
    env.reset()
    actions = [np.array([i % 2]) for i in range(6)]
    for action in actions:
        env.step(action)
    here = env.envs[0].unwrapped.x
    snapshot = source.snapshot(env, 3, actions)
    rng = np.random.default_rng(0)
    futures = [snapshot.resume(rng) for _ in range(2)]
    assert [future.envs[0].unwrapped.x for future in futures] == [here, here]
    assert (play(futures[0]) != play(futures[1])).any()


def test_hidden_randomness_is_noticed():
    assert EnvSource(Hidden).restore is None
    with pytest.raises(ValueError, match="give its id, or a function"):
        EnvSource(Hidden())


def test_errors_say_what_would_do():
    with pytest.raises(gym.error.NameNotFound, match="CartPole"):
        EnvSource("CartPol-v1")
    with pytest.raises(ValueError, match="one environment"):
        EnvSource(make_vec_env("CartPole-v1", n_envs=2))
    with pytest.raises(ValueError, match="training=False"):
        EnvSource(VecNormalize(make_vec_env("CartPole-v1", n_envs=1)))
