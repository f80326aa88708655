"""Discrete spaces that SB3 misreads: everything gives and takes actions as the environment counts them.

What SB3 refuses, bits in several dimensions, is refused as it does, with the remedy.
"""

import copy
import io
import pickle
import re

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from sb3_relax import RELAXA2C, HybridRELAXA2C, MaskableRELAXA2C, RecurrentRELAXA2C
from sb3_relax.algorithm.copies import frozen_copy
from sb3_relax.catalogue import CATALOGUE, load
from sb3_relax.diagnose import diagnose
from sb3_relax.errors import UsageError
from sb3_relax.export import Controller, to_a2c, to_onnx, to_torchscript
from sb3_relax.policy_gradient.action_spaces import as_sb3_counts
from sb3_relax.zoo.matched import MatchedA2C
from tests.helpers import ACTION_SPACES, TinyEnv

SHIFTED_MATRIX = "MultiDiscrete of two dimensions, from elsewhere"
SPACES = {
    "Discrete from 5": spaces.Discrete(3, start=5),
    "Discrete from -2": spaces.Discrete(3, start=-2),
    "MultiDiscrete from elsewhere": spaces.MultiDiscrete([2, 3], start=[-4, 7]),
    "MultiDiscrete of two dimensions": spaces.MultiDiscrete([[2, 3], [3, 2]]),
    SHIFTED_MATRIX: spaces.MultiDiscrete([[2, 3]], start=[[1, 2]]),
}
POLICIES = {RELAXA2C: "MlpPolicy", MaskableRELAXA2C: "MlpPolicy", RecurrentRELAXA2C: "MlpLstmPolicy"}
each_space = pytest.mark.parametrize("space", SPACES)
each_algorithm = pytest.mark.parametrize("algorithm", POLICIES)


class Wanted(TinyEnv):
    """One action is rewarded: the last. It says which actions it was given, and forbids none."""

    def __init__(self, action_space):
        super().__init__(action_space, length=3)
        self.taken = []

    def step(self, action):
        assert np.shape(action) == self.action_space.shape
        self.taken.append(np.array(action))
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float(np.all(action == last(self.action_space))), terminated, truncated, info

    def action_masks(self):
        each = 2 if isinstance(self.action_space, spaces.MultiBinary) else 1  # a bit may be 0, and may be 1
        return np.ones(each * spaces.flatdim(self.action_space), dtype=bool)


def last(space):
    if isinstance(space, spaces.MultiBinary):
        return np.ones(space.shape)
    return space.start + (space.n if isinstance(space, spaces.Discrete) else space.nvec) - 1


class ByHand(gym.ActionWrapper):
    """What SB3's users have to write: flat, from 0."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = as_sb3_counts(env.action_space)

    def action(self, action):
        inner = self.env.action_space
        return np.asarray(action).reshape(inner.shape) + inner.start

    def action_masks(self):
        return self.env.unwrapped.action_masks()


class FlatBits(gym.ActionWrapper):
    """What the error says to write where bits have several dimensions."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = spaces.MultiBinary(spaces.flatdim(env.action_space))

    def action(self, bits):
        return bits.reshape(self.env.action_space.shape)


class FlatLamps(gym.ActionWrapper):
    """The same for a part."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = spaces.Dict({**env.action_space.spaces, "lamps": spaces.MultiBinary(6)})

    def action(self, action):
        return {**action, "lamps": action["lamps"].reshape(2, 3)}


class LampsAndMore(TinyEnv):
    """One part of its actions has two dimensions."""

    def __init__(self):
        super().__init__(spaces.Dict(choice=spaces.Discrete(2), lamps=spaces.MultiBinary((2, 3))))

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        return self._observe(), float(action["lamps"].sum()), self.t >= self.length, False, {}


def make(algorithm, env, **kwargs):
    kwargs = {"n_steps": 8, "seed": 0, "device": "cpu", **kwargs}
    return algorithm(POLICIES[algorithm], env, **kwargs)


def weights(model):
    return [*model.policy.parameters(), *model.control_variate.parameters(), *model.control_variate.buffers()]


@each_space
def test_what_sb3_counts_has_as_many_actions(space):
    counted = as_sb3_counts(SPACES[space])
    assert type(counted) is type(SPACES[space])
    assert counted != SPACES[space]
    assert as_sb3_counts(counted) is counted
    assert spaces.flatdim(counted) == spaces.flatdim(SPACES[space])


def test_spaces_that_sb3_reads_stay_themselves():
    for space in (*ACTION_SPACES.values(), spaces.Dict({})):
        assert as_sb3_counts(space) is space
    assert type(RELAXA2C("MlpPolicy", "CartPole-v1").policy.action_dist).__name__ == "CategoricalDistribution"


VARIANTS = {
    "defaults": {},
    "whole episodes": dict(n_episodes=2),
    "exact": dict(correction="exact", n_critic_steps=2, ent_coef=0.01),
    "at the weights": dict(cv_objective="weights", correction="relaxed", n_cv_steps=2, cv_guard=False),
}


@pytest.mark.parametrize(
    ("space", "variant"),
    [
        *((space, "defaults") for space in SPACES),
        *((SHIFTED_MATRIX, variant) for variant in VARIANTS if variant != "defaults"),
    ],
)
@each_algorithm
def test_training_is_that_of_an_environment_wrapped_by_hand(algorithm, variant, space):
    if algorithm is RecurrentRELAXA2C and variant == "whole episodes":
        pytest.skip("recurrent rollouts are of fixed length")
    native = make_vec_env(lambda: Wanted(SPACES[space]), 2, seed=0)
    by_hand = make_vec_env(lambda: ByHand(Wanted(SPACES[space])), 2, seed=0)
    models = []
    for env in (native, by_hand):
        np.random.seed(0)  # noqa: NPY002  sb3-contrib's generator, and SB3's
        models.append(make(algorithm, env, **VARIANTS[variant]).learn(64))
    assert all(th.equal(a, b) for a, b in zip(*map(weights, models), strict=True))
    for ours, theirs in zip(native.envs, by_hand.envs, strict=True):
        assert np.array_equal(ours.unwrapped.taken, theirs.unwrapped.taken)
        assert len(np.unique(ours.unwrapped.taken)) > 1


@each_space
@each_algorithm
def test_every_way_to_act_gives_actions_of_the_environment(algorithm, space, tmp_path):
    """VecEnvs, evaluation, callbacks, set_env(), load() with and without an environment, the policy alone."""
    space = SPACES[space]
    env = VecNormalize(VecMonitor(DummyVecEnv([lambda: Wanted(space)] * 2)), norm_reward=False)
    eval_env = VecNormalize(VecMonitor(DummyVecEnv([lambda: Wanted(space)])), norm_reward=False, training=False)
    evaluation = EvalCallback(eval_env, eval_freq=8, n_eval_episodes=2, verbose=0)
    callback = None if algorithm is MaskableRELAXA2C else evaluation
    model = make(algorithm, env).learn(64, callback)
    assert model.action_space == model.policy.action_space == model.get_env().action_space == space
    observations = np.random.default_rng(0).normal(scale=9, size=(40, 3)).astype(np.float32)
    with th.no_grad():  # actions that depend on the state
        model.policy.action_net.weight.normal_(std=10)
        model.policy.action_net.bias.zero_()
    expected, _ = model.predict(observations, deterministic=True)
    assert len(np.unique(expected, axis=0)) > 1
    drawn, _ = model.predict(observations)
    for actions in (expected, drawn):
        assert actions.shape == (40, *space.shape)
        assert all(space.contains(action.astype(space.dtype)) for action in actions)
    assert space.contains(np.asarray(model.predict(observations[0])[0], dtype=space.dtype))

    model.save(tmp_path / "agent")
    other = Wanted(space)
    loaded = algorithm.load(tmp_path / "agent", env=make_vec_env(lambda: Wanted(space), 2), device="cpu")
    alone = algorithm.load(tmp_path / "agent", device="cpu")
    pickled = pickle.loads(pickle.dumps(model.policy.action_dist))
    for agent in (loaded, alone, model.policy, copy.deepcopy(model.policy)):
        assert np.array_equal(agent.predict(observations, deterministic=True)[0], expected)
        (evaluate_masked if algorithm is MaskableRELAXA2C else evaluate_policy)(agent, other, n_eval_episodes=2)
    assert all(space.contains(action.astype(space.dtype)) for action in other.taken)
    assert vars(pickled).keys() == vars(model.policy.action_dist).keys()
    loaded.learn(16, reset_num_timesteps=False)
    loaded.set_env(make_vec_env(lambda: Wanted(space), 2))
    loaded.learn(16, reset_num_timesteps=False)
    with pytest.raises(ValueError, match="Action spaces do not match"):
        loaded.set_env(make_vec_env(lambda: ByHand(Wanted(space)), 2))


@pytest.mark.parametrize(
    ("algorithm", "space"),
    [
        (RELAXA2C, SHIFTED_MATRIX),
        (MaskableRELAXA2C, "MultiDiscrete from elsewhere"),
        (RecurrentRELAXA2C, "Discrete from 5"),
    ],
)
def test_the_right_action_is_learned(algorithm, space):
    env = make_vec_env(lambda: Wanted(SPACES[space]), 8, seed=0)
    kwargs = dict(learning_rate=2e-2, use_rms_prop=False, gae_lambda=0.0, gamma=0.5, n_steps=4)
    model = make(algorithm, env, **kwargs).learn(3_000)
    evaluate = evaluate_masked if algorithm is MaskableRELAXA2C else evaluate_policy
    assert evaluate(model, Wanted(SPACES[space]), 20)[0] == 3.0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("space", "how"),
    [*((space, "torchscript") for space in SPACES), ("Discrete from 5", "onnx"), (SHIFTED_MATRIX, "onnx")],
)
def test_exported_policies_count_as_the_environment_does(space, how, tmp_path):
    model = make(RELAXA2C, Wanted(SPACES[space]))
    with th.no_grad():
        model.policy.action_net.weight.mul_(300)
    observations = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    if how == "onnx":
        session = onnxruntime.InferenceSession(to_onnx(model, tmp_path / "agent"), providers=["CPUExecutionProvider"])
        (actions,) = session.run(None, {"observation": observations})
    else:
        actions = th.jit.load(to_torchscript(model, tmp_path / "agent"))(th.as_tensor(observations)).numpy()
    assert np.array_equal(actions, expected)
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize("space", ["Discrete from -2", SHIFTED_MATRIX])
@each_algorithm
def test_what_is_exported_of_masks_and_memory_counts_alike(algorithm, space):
    model = make(algorithm, Wanted(SPACES[space]))
    controller = Controller(model, probabilities=True)
    given, *context = controller.example()
    action, *_, probabilities = controller(given, *context)
    assert np.array_equal(action.detach().numpy(), model.predict(given.numpy(), deterministic=True)[0])
    assert len(probabilities) == len(given)


@each_space
def test_sb3_s_a2c_is_not_said_to_act_alike(space):
    with pytest.raises(UsageError, match="SB3's A2C acts otherwise than this RELAXA2C"):
        to_a2c(make(RELAXA2C, Wanted(SPACES[space])))


@each_space
def test_copies_and_measurements_count_alike(space):
    model = make(RELAXA2C, Wanted(SPACES[space])).learn(32)
    data = next(model.rollout_buffer.get())
    frozen = frozen_copy(model, 0)
    observations = data.observations.numpy()
    expected, _ = model.predict(observations, deterministic=True)
    assert np.array_equal(frozen.predict(observations, deterministic=True)[0], expected)
    # actions of the space's own shape are taken too
    model.seed_noise(1)
    as_stored = model.policy_gradient(data.observations, data.actions, data.advantages)
    model.seed_noise(1)
    shaped = data.actions.reshape(-1, *SPACES[space].shape)
    again = model.policy_gradient(data.observations, shaped, data.advantages)
    assert all(th.equal(again[name], gradient) for name, gradient in as_stored.items())


@pytest.mark.parametrize("space", ["Discrete from 5", SHIFTED_MATRIX])
def test_the_variance_is_measured(space):
    model = make(RELAXA2C, Wanted(SPACES[space])).learn(32)
    size = dict(n_states=4, n_actions=2, n_futures=2, n_episodes=4, n_rollouts=20, n_fit_steps=16, n_fit_updates=2)
    assert diagnose(model, lambda: Wanted(SPACES[space]), lambdas=(1.0,), **size).sentence


def test_a_policy_in_a_file_of_its_own(tmp_path):
    policy = make(RELAXA2C, Wanted(SPACES["Discrete from 5"])).policy
    file = io.BytesIO()
    th.save(policy, file)
    file.seek(0)
    again = th.load(file, weights_only=False)
    observations = np.zeros((1, 3), np.float32)
    assert (
        again.predict(observations, deterministic=True)[0] == policy.predict(observations, deterministic=True)[0] >= 5
    )


def test_actions_that_a_buffer_would_round_are_refused():
    for space in (spaces.Discrete(2, start=2**24), spaces.MultiDiscrete([2, 2], start=[0, -(2**25)])):
        with pytest.raises(UsageError, match=r"exactly up to 16777216.*nearer to 0"):
            make(RELAXA2C, Wanted(space))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(4, start=1), r"observations must count from 0.*Discrete\(4, start=1\).*ObservationWrapper"),
        (spaces.MultiDiscrete([2, 3], start=[0, 1]), "observations must count from 0"),
        (spaces.MultiDiscrete([[2, 3]]), r"MultiDiscrete must be a vector.*nvec.flatten\(\)"),
        (spaces.Dict({"a": spaces.Discrete(4, start=-1)}), r"observations\['a'\] must count from 0"),
    ],
    ids=str,
)
@each_algorithm
def test_observations_that_sb3_misreads_are_refused_before_the_first_step(algorithm, space, message):
    policy = POLICIES[algorithm].replace("Mlp", "MultiInput" if isinstance(space, spaces.Dict) else "Mlp")
    with pytest.raises(UsageError, match=message):
        algorithm(policy, TinyEnv(ACTION_SPACES["discrete"], observation_space=space), device="cpu")


OF_BITS = [name for name, entry in CATALOGUE.items() if "MultiBinary" in entry.action_spaces]
ALONE = [*(load(name) for name in CATALOGUE if name != "HybridRELAXA2C"), MatchedA2C]


def first_policy(algorithm):
    return "MlpLstmPolicy" if "MlpLstmPolicy" in algorithm.policy_aliases else "MlpPolicy"


@pytest.mark.parametrize("n", [(2, 3), [3], (1, 4, 1)], ids=str)
@pytest.mark.parametrize("algorithm", ALONE)
def test_bits_in_several_dimensions_are_refused_in_sb3_s_words_and_with_the_remedy(algorithm, n):
    env = TinyEnv(spaces.MultiBinary(n))
    remedy = rf"gymnasium.ActionWrapper .*MultiBinary\({np.prod(n)}\).*reshape\({re.escape(str(tuple(n)))}\)"
    with pytest.raises(UsageError, match=remedy) as ours:
        algorithm(first_policy(algorithm), env, device="cpu")
    assert isinstance(ours.value, AssertionError)
    with pytest.raises(AssertionError) as theirs:
        A2C("MlpPolicy", env, device="cpu")
    assert str(ours.value).startswith(str(theirs.value).rstrip("."))


@pytest.mark.parametrize("algorithm", OF_BITS)
def test_the_remedy_for_bits_in_several_dimensions_works(algorithm):
    algorithm = load(algorithm)
    inner = Wanted(spaces.MultiBinary((2, 3)))
    model = algorithm(first_policy(algorithm), FlatBits(inner), device="cpu", seed=0).learn(100)
    assert len(inner.taken) >= 100  # its step() has seen that each has its shape
    assert len(np.unique(inner.taken, axis=0)) > 1
    assert model.action_space == spaces.MultiBinary(6)


def test_bits_in_several_dimensions_are_refused_as_a_part_of_an_action_too():
    words = r"^part 'lamps' of an action: Multi-dimensional MultiBinary\(\(2, 3\)\) action space is not supported"
    for error in (UsageError, AssertionError):
        with pytest.raises(error, match=rf"{words}.*MultiBinary\(6\).*reshape\(\(2, 3\)\)"):
            HybridRELAXA2C("MlpPolicy", LampsAndMore(), device="cpu")
    model = HybridRELAXA2C("MlpPolicy", FlatLamps(LampsAndMore()), device="cpu", seed=0).learn(100)
    assert model.predict(np.zeros(3, np.float32))[0]["lamps"].shape == (6,)


@pytest.mark.parametrize("algorithm", ALONE)
def test_other_actions_that_are_refused_are_an_assertion_s_error_too_as_sb3_s_are(algorithm):
    for error in (UsageError, AssertionError):
        with pytest.raises(error, match=f"{algorithm.__name__} takes .* action spaces; got Dict"):
            algorithm(first_policy(algorithm), TinyEnv(spaces.Dict(a=spaces.Discrete(2))), device="cpu")
