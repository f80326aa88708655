"""The time left as an input: the classes of docs/control_variate.md do what the page says."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces, wrappers

from sb3_relax import RELAXA2C
from tests.helpers import NeverEnding, written_in

PAGE = "docs/control_variate.md"
LimitIsTheEnd = written_in(PAGE, "LimitIsTheEnd")
TimeForTheCritic = written_in(PAGE, "TimeForTheCritic")
PARTS = dict(flatten=False, normalize_time=True)


class Counting(NeverEnding):
    """A reward of 1 at every step."""

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, 1.0, *rest


def limited(**kwargs):
    # by their module, in which rl-zoo puts a TimeLimit of its own in the place of gymnasium's
    return wrappers.TimeAwareObservation(wrappers.TimeLimit(Counting(), 5), **kwargs)


def test_the_time_is_the_share_of_the_limit_that_has_passed():
    env = limited(normalize_time=True)
    times = [env.reset(seed=0)[0][-1], *(env.step(0)[0][-1] for _ in range(5))]
    assert np.allclose(times, [0, 0.2, 0.4, 0.6, 0.8, 1])


@pytest.mark.parametrize("end", [True, False])
def test_a_limit_that_is_an_end_is_not_bootstrapped(end):
    env = limited(normalize_time=True)
    model = RELAXA2C("MlpPolicy", LimitIsTheEnd(env) if end else env, n_steps=10, seed=0, device="cpu").learn(10)
    rewards, starts = model.rollout_buffer.rewards.ravel(), model.rollout_buffer.episode_starts.ravel()
    assert np.flatnonzero(starts).tolist() == [0, 5]
    assert (rewards[[4, 9]] == 1).all() == end


def test_v_alone_sees_the_time(tmp_path):
    model = RELAXA2C(TimeForTheCritic, LimitIsTheEnd(limited(**PARTS)), n_steps=10, seed=0, device="cpu").learn(200)
    model.save(tmp_path / "agent")
    loaded = RELAXA2C.load(tmp_path / "agent", device="cpu", custom_objects={"policy_class": TimeForTheCritic})
    for policy in (model.policy, loaded.policy):
        assert isinstance(policy.observation_space, spaces.Dict)
        obs = {"obs": th.zeros(2, 3), "time": th.tensor([[0.0], [0.8]])}
        with th.no_grad():
            logits = policy.get_distribution(obs).distribution.logits
            values = policy.predict_values(obs)
            both, _, _ = policy.evaluate_actions(obs, th.zeros(2))
        assert th.equal(logits[0], logits[1])
        assert values[0] != values[1]
        assert th.equal(both, values)
        moved = {"obs": th.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), "time": th.zeros(2, 1)}
        with th.no_grad():
            logits = policy.get_distribution(moved).distribution.logits
        assert not th.equal(logits[0], logits[1])


def test_with_the_time_v_is_right_and_without_it_cannot_be():
    """What is left of a reward of 1 a step is the number of steps that are left."""

    def error(policy, env):
        model = RELAXA2C(
            policy,
            env,
            n_steps=20,
            gamma=1.0,
            critic_learning_rate=0.02,
            n_critic_steps=20,
            use_rms_prop=False,
            max_grad_norm=10.0,
            seed=0,
            device="cpu",
        ).learn(600)
        # V as it was when it acted in the last rollout
        left = 5 - np.arange(20) % 5
        return np.abs(model.rollout_buffer.values.ravel() - left).mean()

    assert error(TimeForTheCritic, LimitIsTheEnd(limited(**PARTS))) < 0.3
    assert error("MlpPolicy", LimitIsTheEnd(wrappers.TimeLimit(Counting(), 5))) > 0.8


def test_where_the_limit_is_not_known_gymnasium_says_so():
    with pytest.raises(ValueError, match="TimeLimit"):
        wrappers.TimeAwareObservation(gym.Wrapper(Counting()))
