"""Standard errors over rollouts hold where consecutive rollouts share episodes."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.algorithm.copies import frozen_copy
from sb3_relax.diagnose import rollout_gradients, streams
from sb3_relax.diagnose.jackknife import variance
from sb3_relax.diagnose.parallel import Parallel
from sb3_relax.diagnose.rollout_gradients import gradient_grams, score_term

LENGTH = 40
N_ROLLOUTS = 80


class Contexts(gym.Env):
    """Each episode has a scale of its own for a part of the reward that is known, and one for a part that is not."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def _observation(self):
        return np.array([self.known, self.t * 1e-3], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.known, self.unknown = self.np_random.choice([0.5, 1.5], size=2)
        return self._observation(), {}

    def step(self, action):
        self.t += 1
        reward = float(self.known + self.unknown * self.np_random.choice([-1, 1]))
        return self._observation(), reward, self.t == LENGTH, False, {}


def agent(n_steps=1):
    kwargs = dict(policy_kwargs=dict(net_arch=[]), gae_lambda=0.0, seed=0, device="cpu")
    model = RELAXA2C("MlpPolicy", Contexts(), n_steps=n_steps, **kwargs)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.zero_()
    return model


def ratios(n_seeds=20):
    """The ratio and its standard error, of a baseline that knows the first part, over seeds."""
    model = agent()
    estimators = {
        "with": lambda steps, i: score_term(steps.output, steps.advantages[i] - steps.output.features[:, 0]),
        "without": lambda steps, i: score_term(steps.output, steps.advantages[i]),
    }
    found = []
    for seed in range(n_seeds):
        th.manual_seed(seed)
        env = DummyVecEnv([Contexts])
        grams, groups = gradient_grams(frozen_copy(model, seed), env, N_ROLLOUTS, [0.0], estimators, seed)
        ratio = variance(grams["with"][0], groups) / variance(grams["without"][0], groups)
        found.append((ratio.value, ratio.standard_error))
    values, errors = np.array(found).T
    return np.sqrt(np.square(errors).mean()) / values.std(ddof=1)


def test_standard_errors_are_right():
    assert 0.7 < ratios() < 1.6


def test_blocks_of_one_run_are_too_sure(monkeypatch):
    """What streams are for: the same rollouts in one go, and the jackknife over its blocks."""
    right = rollout_gradients.rollouts
    runs = {}

    def one_run(model, env, n_rollouts, lambdas, warm_up):
        if id(model) not in runs:
            runs[id(model)] = (model, right(model, env, N_ROLLOUTS, lambdas, 0))
        for _ in range(n_rollouts):
            yield next(runs[id(model)][1])

    monkeypatch.setattr(rollout_gradients, "rollouts", one_run)
    assert ratios() < 0.6


def test_streams_begin_everywhere_in_an_episode_and_never_alike():
    model, env = frozen_copy(agent(), 0), DummyVecEnv([Contexts])
    begins, contexts = [], []
    for warm_up in streams.streams(model, env, 150, seed=0):
        streams.restart(model, env)
        assert not np.asarray(model._last_obs)[:, 1].any()
        contexts.append(env.get_attr("np_random")[0].bit_generator.state["state"]["state"])
        begins.append(warm_up)
    assert len(set(contexts)) == 150
    assert set(begins) <= set(range(LENGTH))
    assert len(set(begins)) > 0.8 * LENGTH
    assert np.mean(begins) == pytest.approx((LENGTH - 1) / 2, abs=4)
    callback = streams.restart(model, env)
    streams.advance(model, env, callback, 7)
    assert np.asarray(model._last_obs)[:, 1] == pytest.approx(7e-3)


@pytest.mark.parametrize(
    ("algorithm", "env_id", "kwargs"),
    [
        (RELAXA2C, "CartPole-v1", {}),
        (LAXA2C, "Pendulum-v1", {}),
        (LAXA2C, "Pendulum-v1", dict(use_sde=True, sde_sample_freq=2)),
        (RELAXA2C, "CartPole-v1", dict(policy_kwargs=dict(share_features_extractor=False))),
    ],
)
def test_what_is_forgotten_is_acted_as_rollouts_are(algorithm, env_id, kwargs):
    """With the same random numbers, so that a measurement is the same whether its first steps are kept or not."""
    model = algorithm("MlpPolicy", env_id, n_steps=5, device="cpu", seed=0, **kwargs)
    found = []
    for how in ("rollouts", "advance"):
        copy, env = frozen_copy(model, 0), make_vec_env(env_id, 2, seed=3)
        callback = streams.restart(copy, env)
        th.manual_seed(1)
        if how == "advance":
            ended = streams.advance(copy, env, callback, 43)
        else:
            ended = []
            for size in (*[5] * 8, 3):
                copy.collect_rollouts(env, callback, copy.rollout_buffer, size)
                ended += [*copy.rollout_buffer.episode_starts[1:size], copy._last_episode_starts]
        found.append((copy._last_obs, np.array(ended, dtype=bool), copy._last_episode_starts, th.rand(3).numpy()))
    for a, b in zip(*found, strict=True):
        assert np.array_equal(a, b)
    assert env_id != "CartPole-v1" or found[0][1].any()


def test_episodes_that_do_not_end_count_as_the_longest(monkeypatch):
    model, env = frozen_copy(agent(), 0), DummyVecEnv([Contexts])
    monkeypatch.setattr(streams, "LONGEST", 8)
    assert max(streams.streams(model, env, 100, seed=0)) == 7


def test_variance_with_dependent_groups_is_unbiased():
    """x_i = what its group shares + its own: pairs within a group would take the shared part off."""
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(4), 5)
    values = []
    for _ in range(4_000):
        x = rng.normal(size=(4, 1))[groups] + rng.normal(size=(20, 1)) + 3
        values.append(variance(x @ x.T, groups).value)
    assert np.mean(values) == pytest.approx(2, abs=4.5 * np.std(values) / 4_000**0.5)


def test_side_by_side_environments_are_seeded_each():
    env = Parallel([DummyVecEnv([Contexts]) for _ in range(2)])
    states = []
    for seed in (0, 0, 5):
        env.seed(seed)
        env.reset()
        states.append([e.unwrapped.np_random.random() for vec in env.envs for e in vec.envs])
    assert states[0] == states[1] != states[2]
    assert states[0][0] != states[0][1]
