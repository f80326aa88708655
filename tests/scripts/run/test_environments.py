"""Environments of the learning runs."""

import copy
import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sb3_relax.errors import NeedsTrust
from scripts.run import environments, pixel_choice
from scripts.run.entries import model_arguments
from scripts.run.rl import made
from tests.payloads import in_python, went_off


def test_wide_actions():
    """Its reward and its next state against the formula, term by term."""
    env = environments.WideActions(n_bits=6, horizon=2)
    check_env(env, skip_render_check=True)
    env.reset(seed=0)
    state, x = env.state.copy(), np.array([1, -1, 1, 1, -1, 1])
    twin = copy.deepcopy(env)
    _, reward, *ends = env.step((x + 1) // 2)
    by_state = sum(state[i] * env.to_reward[i, j] * x[j] for i in range(8) for j in range(6))
    by_pairs = sum(env.couplings[i, j] * x[i] * x[j] for i in range(6) for j in range(6) if i != j)
    assert reward == pytest.approx(by_state + by_pairs)
    assert ends[:2] == [False, False]
    noise = 0.1 * twin.np_random.normal(size=8)
    np.testing.assert_allclose(env.state, env.rotation @ state + env.to_state @ x + noise)
    np.testing.assert_allclose(env.rotation @ env.rotation.T, 0.81 * np.eye(8), atol=1e-12)
    assert env.step(np.zeros(6))[2:4] == (False, True)


def test_a_wide_decision_is_the_first_step_of_wide_actions():
    env, steps = environments.WideDecision(n_bits=6), environments.WideActions(n_bits=6)
    check_env(env, skip_render_check=True)
    states = [each.reset(seed=3)[0] for each in (env, steps)]
    assert np.array_equal(*states)
    action = np.array([0, 1, 1, 0, 1, 0])
    _, reward, *ends, _ = env.step(action)
    assert reward == steps.step(action)[1]
    assert ends == [True, False]  # the episode has come to its end, and nothing is cut short


def test_pixels_are_paid_by_what_the_classifier_makes_of_them():
    env = made("PixelChoice-v0", {}, n_envs=1, seed=0).envs[0].unwrapped
    check_env(env, skip_render_check=True)
    image, _ = env.reset(seed=0)
    digit = env.digits[env.index]
    known = pixel_choice.classifier().predict_log_proba(np.concatenate([image, np.ones(64)])[np.newaxis])[0]
    assert known.argmax() == digit
    _, reward, *ends, _ = env.step(np.ones(64, np.int8))
    assert reward == pytest.approx(known[digit] - 64 * env.cost)
    assert ends == [True, False]
    half = np.arange(64) % 2
    known = pixel_choice.classifier().predict_log_proba(np.concatenate([image * half, half])[np.newaxis])[0]
    assert env.step(half)[1] == pytest.approx(known[digit] - 32 * env.cost)
    _, reward, *_ = env.step(np.zeros(64, np.int8))  # nothing is shown: a guess
    assert reward == pytest.approx(-math.log(10), abs=0.5)


def test_the_classifier_reads_no_pixel_that_is_hidden():
    images, _ = pixel_choice.digits()
    shown = np.zeros(64, np.float32)
    shown[10:30] = 1
    other = np.where(shown == 1, images[0], 1 - images[0])
    assert np.array_equal(pixel_choice.seen(images[0], shown), pixel_choice.seen(other, shown))
    assert not np.array_equal(pixel_choice.seen(images[0], shown), pixel_choice.seen(images[1], shown))


def test_learning_runs_need_not_draw():
    assert made("CartPole-v1", {}, n_envs=2, seed=0).get_attr("render_mode") == [None, None]


def test_lunar_lander_is_the_same_without_smoke():
    pytest.importorskip("Box2D", reason="LunarLander needs the extra envs")
    pytest.importorskip("pygame", reason="Box2D's environments need pygame-ce (LGPL): pip install pygame-ce")
    envs = gym.make("LunarLander-v3"), environments.WithoutSmoke(gym.make("LunarLander-v3"))
    actions = np.random.default_rng(0)
    for seed in range(3):
        first, second = (env.reset(seed=seed)[0] for env in envs)
        done = False
        while not done:
            action = 2 if first[3] < -0.3 else int(actions.integers(4))
            (first, *of_first, _), (second, *of_second, _) = (env.step(action) for env in envs)
            assert np.array_equal(first, second)
            assert of_first == of_second
            done = any(of_first[1:])
    assert envs[0].unwrapped.particles or not envs[1].unwrapped.particles


def test_protocols_name_known_wrappers_alone(tmp_path, monkeypatch):
    """And their expressions are read, not run."""
    mark = tmp_path / "mark"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "payload.py").write_text(in_python(mark))
    for given in ("payload.Wrapper", ["payload.Wrapper"], {"timeit.timeit": {"setup": in_python(mark)}}):
        with pytest.raises(NeedsTrust, match="which is in none of"):
            made("CartPole-v1", {"env_wrapper": given}, n_envs=1, seed=0)
    with pytest.raises(NeedsTrust, match="is Python that would be run"):
        model_arguments({"policy_kwargs": f"dict(net_arch={in_python(mark)})"})
    assert not went_off(mark)
    env = made("CartPole-v1", {"env_wrapper": [{"environments.ScaledReward": {"scale": 0.1}}]}, n_envs=1, seed=0)
    env.reset()
    assert env.step(np.zeros(1, int))[1] == np.float32(0.1)
