"""A rollout is in time order, its batch is SB3's own to the last bit, and time limits are where they were."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_relax import LAXA2C, RELAXA2C, MaskableRecurrentRELAXA2C, MaskableRELAXA2C, RecurrentRELAXA2C
from sb3_relax.policy_gradient import Rollout

GAMMA, LAMBDA = 0.9, 0.8
THREE = spaces.Discrete(3)
CLOCK = spaces.Box(-np.inf, np.inf, (2,), np.float32)
PARTS = spaces.Dict({"clock": CLOCK, "quarter": spaces.Discrete(4)})


class Clock(gym.Env):
    """What is seen says where it belongs: which environment, and which of all its steps, resets or not."""

    def __init__(self, number, length, action_space=THREE, observation_space=CLOCK):
        self.number, self.length = number, length
        self.action_space, self.observation_space = action_space, observation_space
        self.step_number = 0

    def _observe(self):
        seen = clock(self.number, self.step_number)
        if self.observation_space is CLOCK:
            return seen
        return {"clock": seen, "quarter": self.step_number % 4}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        reward = reward_of(self.number, self.step_number)
        self.t += 1
        self.step_number += 1
        return self._observe(), reward, self.t >= self.length, False, {}

    def action_masks(self):
        return mask_of(self.step_number)


def clock(number, step):
    return np.array([number, step / 16], np.float32)


def reward_of(number, step):
    return number + step / 4


def mask_of(step):
    return np.arange(3) != step % 4


RECURRENT = dict(policy_kwargs=dict(lstm_hidden_size=4, net_arch=[8]))
#: algorithm, policy, spaces of the environment, and arguments of the algorithm
CASES = {
    "plain": (RELAXA2C, "MlpPolicy", {}, {}),
    "Box actions": (LAXA2C, "MlpPolicy", dict(action_space=spaces.Box(-1.0, 1.0, (2,), np.float32)), {}),
    "Dict observations": (RELAXA2C, "MultiInputPolicy", dict(observation_space=PARTS), {}),
    "masks": (MaskableRELAXA2C, "MlpPolicy", {}, {}),
    "masks, Dict observations": (MaskableRELAXA2C, "MultiInputPolicy", dict(observation_space=PARTS), {}),
    "recurrent": (RecurrentRELAXA2C, "MlpLstmPolicy", {}, RECURRENT),
    "recurrent, Dict observations": (
        RecurrentRELAXA2C,
        "MultiInputLstmPolicy",
        dict(observation_space=PARTS),
        RECURRENT,
    ),
    "recurrent, masks": (MaskableRecurrentRELAXA2C, "MlpLstmPolicy", {}, RECURRENT),
    "recurrent, masks, Dict observations": (
        MaskableRecurrentRELAXA2C,
        "MultiInputLstmPolicy",
        dict(observation_space=PARTS),
        RECURRENT,
    ),
    "whole episodes": (RELAXA2C, "MlpPolicy", {}, dict(n_episodes=4)),
    "whole episodes, masks": (MaskableRELAXA2C, "MlpPolicy", {}, dict(n_episodes=4)),
    "whole episodes, recurrent": (RecurrentRELAXA2C, "MlpLstmPolicy", {}, dict(n_episodes=4, **RECURRENT)),
    "whole episodes, recurrent, masks": (
        MaskableRecurrentRELAXA2C,
        "MlpLstmPolicy",
        {},
        dict(n_episodes=4, **RECURRENT),
    ),
}
#: environments and steps
SIZES = {"3 x 10": (3, 10), "1 x 10": (1, 10), "3 x 1": (3, 1)}
#: of the episodes of each environment
LENGTHS = (3, 50, 4)


def collected(case, size="3 x 10", limit=None, rollouts=2, **more):
    """A model whose weights stay as they are, after its second rollout."""
    algorithm, policy, env, kwargs = CASES[case]
    n_envs, n_steps = SIZES[size]
    lengths = LENGTHS if limit is not None or "episodes" not in case else (3, 5, 4)

    def make(number):
        inner = Clock(number, lengths[number], **env)
        return inner if limit is None else TimeLimit(inner, limit)

    model = algorithm(
        policy,
        DummyVecEnv([lambda number=number: make(number) for number in range(n_envs)]),
        learning_rate=0.0,
        n_steps=n_steps,
        gamma=GAMMA,
        gae_lambda=LAMBDA,
        seed=0,
        device="cpu",
        **{**dict(policy_kwargs=dict(net_arch=[8])), **kwargs, **more},
    )
    with th.no_grad():  # a V that matters
        model.policy.value_net.weight.mul_(3)
        model.policy.value_net.bias.fill_(1.0)
    steps = model.n_envs * n_steps * rollouts
    return model.learn(1 if model.n_episodes is not None else steps)


def rollout_of(model):
    return model.rollout_class.of(model.rollout_buffer, model.time_limits)


def sb3_batch(model):
    np.random.seed(5)  # noqa: NPY002  (SB3's generator)
    return next(model.rollout_buffer.get(batch_size=None))


def our_batch(rollout):
    np.random.seed(5)  # noqa: NPY002
    return next(rollout.batches(th.float32))


def parts_of(observations):
    """Every array of observations, by name."""
    return observations if isinstance(observations, dict) else {"clock": observations}


def arrays(rollout):
    names = (
        *("actions", "rewards", "episode_starts", "values", "log_probs"),
        *("advantages", "returns", "truncations", "bootstraps"),
    )
    return {**{name: getattr(rollout, name) for name in names}, **parts_of(rollout.observations), **rollout.context}


def value(model, number, step):
    """V of what an environment shows before a step."""
    observation = clock(number, step)
    if isinstance(model.observation_space, spaces.Dict):
        observation = {"clock": observation, "quarter": np.array(step % 4)}
    with th.no_grad():
        return model.policy.predict_values(model.policy.obs_to_tensor(observation)[0]).item()


STEPS = [case for case in CASES if "episodes" not in case]
EPISODES = [case for case in CASES if "episodes" in case]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", STEPS)
def test_everything_is_where_and_when_it_was(case, size):
    model = collected(case, size)
    n_envs, n_steps = SIZES[size]
    rollout = rollout_of(model)
    assert rollout.shape == (n_steps, n_envs)
    assert all(array.shape[:2] == (n_steps, n_envs) for array in arrays(rollout).values())
    where = {(t, e): n_steps + t for t in range(n_steps) for e in range(n_envs)}  # the second rollout
    seen = parts_of(rollout.observations)
    for (t, e), step in where.items():
        assert np.array_equal(seen["clock"][t, e], clock(e, step))
        if "quarter" in seen:
            assert seen["quarter"][t, e] == step % 4
        assert rollout.rewards[t, e] == np.float32(reward_of(e, step))
        assert rollout.episode_starts[t, e] == (step % LENGTHS[e] == 0)
        if "masks" in case:
            assert np.array_equal(rollout.context["action_masks"][t, e], mask_of(step))
    if "recurrent" not in case:
        by_hand = np.array([[value(model, e, n_steps + t) for e in range(n_envs)] for t in range(n_steps + 1)])
        assert rollout.values == pytest.approx(by_hand[:-1], abs=1e-5)
        assert np.ptp(by_hand) > 0.01
        ends = np.array([[(n_steps + t + 1) % LENGTHS[e] == 0 for e in range(n_envs)] for t in range(n_steps)])
        assert rollout.advantages == pytest.approx(gae(rollout.rewards, by_hand, ends), abs=1e-4)
    assert rollout.returns == pytest.approx(rollout.advantages + rollout.values, abs=1e-5)
    assert not rollout.truncations.any()
    assert not rollout.bootstraps.any()


def gae(rewards, values, ends):
    """By the definition: ``values`` has one step more."""
    advantages, last = np.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        goes_on = 1.0 - ends[t]
        last = rewards[t] + GAMMA * values[t + 1] * goes_on - values[t] + GAMMA * LAMBDA * goes_on * last
        advantages[t] = last
    return advantages


@pytest.mark.parametrize("case", EPISODES)
def test_whole_episodes_follow_each_other(case):
    """Four of three environments: one of the first, one of the second, two of the third."""
    rollout = rollout_of(collected(case))
    lengths = [3, 5, 4, 4]
    assert rollout.shape == (sum(lengths), 1)
    assert all(array.shape[:2] == rollout.shape for array in arrays(rollout).values())
    numbers, steps = rollout.observations[:, 0, 0], rollout.observations[:, 0, 1] * 16
    assert numbers.tolist() == [0] * 3 + [1] * 5 + [2] * 8
    assert steps.tolist() == [*range(3), *range(5), *range(8)]
    assert rollout.rewards[:, 0].tolist() == [reward_of(n, t) for n, t in zip(numbers, steps, strict=True)]
    starts = np.cumsum([0, *lengths[:-1]])
    assert np.flatnonzero(rollout.episode_starts[:, 0]).tolist() == starts.tolist()
    if "masks" in case:
        assert np.array_equal(rollout.context["action_masks"][:, 0], [mask_of(int(step)) for step in steps])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_a_buffer_that_was_read_gives_the_same_rollout(case, size):
    """``get()`` reorders the buffer's arrays."""
    model = collected(case, size)
    before = {name: array.copy() for name, array in arrays(rollout_of(model)).items()}
    sb3_batch(model)
    assert model.rollout_buffer.generator_ready
    after = arrays(rollout_of(model))
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert array.dtype == after[name].dtype
        assert np.array_equal(array, after[name]), name


def test_the_buffer_is_left_as_it_is():
    model = collected("recurrent, Dict observations")
    buffer = model.rollout_buffer
    before = {name: value.copy() for name, value in vars(buffer).items() if isinstance(value, np.ndarray)}
    our_batch(rollout_of(model))
    assert not buffer.generator_ready
    assert all(np.array_equal(value, getattr(buffer, name)) for name, value in before.items())


@pytest.mark.parametrize("read_before", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", [case for case in CASES if "recurrent" not in case])
def test_the_batch_is_sb3s_to_the_last_bit(case, size, read_before):
    model = collected(case, size)
    if read_before:
        sb3_batch(model)
    batch = our_batch(rollout_of(model))
    theirs = sb3_batch(model)
    pairs = [(batch.observations, theirs.observations)]
    if isinstance(batch.observations, dict):
        assert batch.observations.keys() == theirs.observations.keys()
        pairs = [(batch.observations[name], part) for name, part in theirs.observations.items()]
    pairs += [(batch.advantages, theirs.advantages), (batch.returns, theirs.returns)]
    if "masks" in case:  # where the buffer leaves actions as whole numbers, which SB3's makes floats of
        pairs += [(batch.context["action_masks"], theirs.action_masks), (batch.actions, theirs.actions.float())]
    else:
        pairs.append((batch.actions, theirs.actions))
    assert batch.context.keys() == ({"action_masks"} if "masks" in case else set())
    for ours, expected in pairs:
        assert ours.dtype == expected.dtype
        assert th.equal(ours, expected)
    if "Dict" not in case and len(batch.advantages) > 5:  # a permutation that leaves time order
        assert not th.equal(batch.observations, batch.observations[np.argsort(batch.index)])


@pytest.mark.parametrize("read_before", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", [case for case in CASES if "recurrent" in case])
def test_the_sequences_are_sb3_contribs_to_the_last_bit(case, size, read_before):
    """Where there is no padding. An episode's first step has states of zero here, and there a flag that says so."""
    model = collected(case, size)
    if read_before:
        sb3_batch(model)
    batch = our_batch(rollout_of(model))
    theirs = sb3_batch(model)
    real = theirs.mask > 0
    assert th.equal(batch.context["mask"], real)
    for name, expected in parts_of(theirs.observations).items():
        ours = parts_of(batch.observations)[name]
        assert ours.shape == expected.shape
        assert th.equal(ours[real], expected[real])
    assert th.equal(batch.actions[real], theirs.actions[real])
    if "masks" in case:
        assert 0 < theirs.action_masks[real].mean() < 1
        assert th.equal(batch.context["action_masks"][real], theirs.action_masks[real])
    assert th.equal(batch.advantages, theirs.advantages[real])
    assert th.equal(batch.returns, theirs.returns[real])
    starts = theirs.episode_starts.reshape(theirs.lstm_states.pi[0].shape[1], -1)
    assert not starts[:, 1:].any()
    assert not batch.context["episode_starts"].any()
    goes_on = 1 - starts[:, :1]
    if size == "3 x 10" and "episodes" not in case:  # sequences of both kinds
        assert 0 < goes_on.sum() < len(goes_on)
    for ours, expected in zip(batch.context["lstm_states"], theirs.lstm_states, strict=True):
        for state, other in zip(ours, expected, strict=True):
            assert th.equal(state, other * goes_on)


def test_the_states_of_the_lstm_are_those_before_each_step():
    """What the policy makes of the states of one step are the states of the next."""
    model = collected("recurrent")
    rollout = rollout_of(model)
    shape = (*rollout.shape, 1, 4)
    assert all(states.shape == shape for states in rollout.context.values())
    hidden, cell = (th.as_tensor(rollout.context[f"{kind}_states_pi"]) for kind in ("hidden", "cell"))
    assert hidden.abs().max() > 0
    for t in range(len(hidden) - 1):
        before = tuple(states[t].swapaxes(0, 1).contiguous() for states in (hidden, cell))
        with th.no_grad():
            _, after = model.policy.get_distribution(
                th.as_tensor(rollout.observations[t]), before, th.as_tensor(rollout.episode_starts[t])
            )
        for ours, expected in zip((hidden, cell), after, strict=True):
            assert th.allclose(ours[t + 1].swapaxes(0, 1), expected, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_the_index_is_the_place_in_flattened_time_order(case, size):
    model = collected(case, size)
    rollout = rollout_of(model)
    batch, theirs = our_batch(rollout), sb3_batch(model)
    real = theirs.mask > 0 if "recurrent" in case else th.ones(len(theirs.old_values), dtype=th.bool)
    assert sorted(batch.index) == list(range(rollout.values.size))
    for ours, expected in ((rollout.values, theirs.old_values), (rollout.log_probs, theirs.old_log_prob)):
        assert np.array_equal(ours.ravel()[batch.index], expected.flatten()[real].numpy())
    seen = parts_of(rollout.observations)["clock"].reshape(-1, 2)[batch.index]
    assert np.array_equal(seen, parts_of(batch.observations)["clock"][real].numpy())


def test_steps_can_be_asked_for_environment_after_environment():
    rollout = rollout_of(collected("plain"))
    batch = rollout.batch(np.arange(4, 17), th.float64)
    assert batch.observations[:, 0].tolist() == [0] * 6 + [1] * 7
    assert (batch.observations[:, 1] * 16).tolist() == [*range(14, 20), *range(10, 17)]
    assert batch.advantages.dtype == batch.returns.dtype == th.float64


LIMIT = 4


@pytest.mark.parametrize("case", ["plain", "Dict observations", "masks", "recurrent"])
def test_time_limits_are_found_and_what_they_added_can_be_taken_off(case):
    """The first environment ends before the limit, and the third just then, which is an end of its own."""
    model = collected(case, limit=LIMIT)
    rollout = rollout_of(model)
    steps = 10 + np.arange(10)
    cut = np.zeros((10, 3), dtype=bool)
    cut[:, 1] = (steps + 1) % LIMIT == 0
    assert 2 <= cut.sum() <= 3
    assert np.array_equal(rollout.truncations, cut)
    earned = np.array([[reward_of(e, step) for e in range(3)] for step in steps])
    assert rollout.rewards - rollout.bootstraps == pytest.approx(earned, abs=1e-5)
    assert (rollout.bootstraps != 0).tolist() == cut.tolist()
    for t, e in np.argwhere(cut):
        assert rollout.bootstraps[t, e] == pytest.approx(GAMMA * value_after(model, rollout, t, e), abs=1e-5)
    # of a buffer alone it is not known
    alone = model.rollout_class.of(model.rollout_buffer)
    assert not alone.truncations.any()
    assert not alone.bootstraps.any()
    assert np.array_equal(alone.rewards, rollout.rewards)


def value_after(model, rollout, t, e):
    """V of the state in which step ``t`` left environment ``e``."""
    step = 10 + t + 1
    if "hidden_states_vf" not in rollout.context:
        return value(model, e, step)
    if t + 1 < len(rollout.values):
        states = [th.as_tensor(rollout.context[f"{kind}_states_vf"][t + 1, e]) for kind in ("hidden", "cell")]
    else:
        states = [state[:, e] for state in model._last_lstm_states.vf]
    states = tuple(state.unsqueeze(1) for state in states)
    with th.no_grad():
        return model.policy.predict_values(th.as_tensor(clock(e, step))[None], states, th.zeros(1)).item()


def value_at_limit(model):
    """V of the state in which the limit cut the first episode of the second environment."""
    if "recurrent" not in type(model).__module__:
        return value(model, 1, LIMIT)
    seen = th.as_tensor(np.stack([clock(1, step) for step in range(LIMIT + 1)]))
    nothing = th.zeros(1, 1, model.policy.lstm_critic.hidden_size)
    with th.no_grad():
        return model.policy.predict_values(seen, (nothing, nothing), th.zeros(LIMIT + 1))[-1].item()


@pytest.mark.parametrize("bootstrap_truncated", [True, False])
@pytest.mark.parametrize("case", EPISODES)
def test_time_limits_of_whole_episodes(case, bootstrap_truncated):
    model = collected(case, limit=LIMIT, bootstrap_truncated=bootstrap_truncated)
    rollout = rollout_of(model)
    assert rollout.shape == (3 + LIMIT + 4 + 4, 1)
    assert np.flatnonzero(rollout.truncations).tolist() == [3 + LIMIT - 1]
    numbers, steps = rollout.observations[:, 0, 0], rollout.observations[:, 0, 1] * 16
    earned = np.array([reward_of(n, step) for n, step in zip(numbers, steps, strict=True)])
    assert (rollout.rewards - rollout.bootstraps)[:, 0] == pytest.approx(earned, abs=1e-5)
    expected = np.zeros(len(steps))
    if bootstrap_truncated:
        expected[3 + LIMIT - 1] = GAMMA * value_at_limit(model)
        assert abs(expected).max() > 0.1
    assert rollout.bootstraps[:, 0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("case", ["plain", "masks", "recurrent"])
def test_a_buffer_that_is_not_full_is_refused(case):
    model = collected(case)
    model.rollout_buffer.reset()
    with pytest.raises(ValueError, match="the rollout buffer must be full"):
        rollout_of(model)


def test_advantages_and_returns_may_be_replaced_before_the_batch():
    rollout = rollout_of(collected("plain"))
    rollout.advantages = np.arange(30, dtype=np.float32).reshape(10, 3)
    rollout.returns = -rollout.advantages
    batch = our_batch(rollout)
    assert batch.advantages.tolist() == batch.index.tolist()
    assert batch.returns.tolist() == (-batch.index).tolist()
    assert isinstance(rollout, Rollout)


def test_the_explained_variance_is_sb3s_and_nan_where_returns_do_not_vary():
    model = RELAXA2C("MlpPolicy", "CartPole-v1", n_steps=32, seed=0).learn(32)
    rollout, logged = Rollout.of(model.rollout_buffer), model.logger.name_to_value
    expected = explained_variance(rollout.values.ravel(), rollout.returns.ravel())
    assert logged["train/explained_variance"] == pytest.approx(expected, rel=1e-5)
    model.rollout_buffer.returns[:] = 0.5
    model.train()
    assert np.isnan(logged["train/explained_variance"])
