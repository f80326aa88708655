"""normalize_observations: VecNormalize's statistics in the policy, the same throughout a rollout and its update."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_relax
from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.algorithm.copies import frozen_copy
from sb3_relax.callbacks import GradientVarianceCallback
from sb3_relax.errors import ParametersDoNotFit, UsageError
from sb3_relax.policy_gradient.observation_scale import (
    NormalizingExtractor,
    ObservationScale,
    has_scale,
    scale_of,
)
from tests.helpers import ACTION_SPACES, TinyEnv

#: far from the numbers that networks like; each component in another way
VECTOR = spaces.Box(np.float32([-1.0, 100.0, -1e-3]), np.float32([1.0, 300.0, 1e-3]))
DOUBLE = spaces.Box(-9.0, 900.0, (4,), np.float64)
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
PARTS = spaces.Dict(
    {"vector": VECTOR, "bytes": spaces.Box(0, 255, (2, 2), np.uint8), "image": IMAGE, "phase": spaces.Discrete(3)}
)


class Env(TinyEnv):
    """Takes any action, and allows two of three at a time."""

    def step(self, action):
        self.t += 1
        return self._observe(), float(self.np_random.normal()), self.t >= self.length, False, {}

    def action_masks(self):
        return np.roll([True, True, False], self.t)


DISCRETE, BOX = ACTION_SPACES["discrete"], ACTION_SPACES["box"]
HYBRID = spaces.Dict(at=BOX, what=DISCRETE)
#: class, policy, action space, observation space, arguments
CASES = {
    "LAXA2C": ("LAXA2C", "MlpPolicy", BOX, VECTOR, {}),
    "gSDE": ("LAXA2C", "MlpPolicy", BOX, VECTOR, dict(use_sde=True)),
    "RELAXA2C": ("RELAXA2C", "MlpPolicy", DISCRETE, VECTOR, {}),
    "whole episodes": ("RELAXA2C", "MlpPolicy", DISCRETE, VECTOR, dict(n_episodes=2)),
    "float64": ("RELAXA2C", "MlpPolicy", DISCRETE, DOUBLE, {}),
    "parts": ("RELAXA2C", "MultiInputPolicy", DISCRETE, PARTS, {}),
    "extractors apart": (
        "RELAXA2C",
        "MultiInputPolicy",
        DISCRETE,
        PARTS,
        dict(policy_kwargs=dict(share_features_extractor=False), critic_learning_rate=1e-2, n_critic_steps=3),
    ),
    "kfac": ("RELAXA2C", "MlpPolicy", DISCRETE, VECTOR, dict(update_rule="kfac", target_kl=0.01)),
    "replay": ("RELAXA2C", "MlpPolicy", DISCRETE, VECTOR, dict(critic_replay=3, n_critic_steps=3)),
    "masks": ("MaskableRELAXA2C", "MlpPolicy", DISCRETE, VECTOR, {}),
    "memory": ("RecurrentRELAXA2C", "MlpLstmPolicy", DISCRETE, VECTOR, {}),
    "memory, box": ("RecurrentLAXA2C", "MlpLstmPolicy", BOX, VECTOR, {}),
    "memory, episodes": ("RecurrentRELAXA2C", "MultiInputLstmPolicy", DISCRETE, PARTS, dict(n_episodes=2)),
    "masks and memory": ("MaskableRecurrentRELAXA2C", "MlpLstmPolicy", DISCRETE, VECTOR, {}),
    "actions of parts": ("HybridRELAXA2C", "MlpPolicy", HYBRID, VECTOR, {}),
}


def make(case="RELAXA2C", **more):
    name, policy, action_space, observation_space, arguments = CASES[case]
    env = make_vec_env(lambda: Env(action_space, observation_space=observation_space), 2, seed=0)
    arguments = {**dict(n_steps=8, seed=0, device="cpu", normalize_observations=True), **arguments, **more}
    return getattr(sb3_relax, name)(policy, env, **arguments)


def statistics(scale):
    """Name of a part → mean, variance, count."""
    return {name: [b.clone().numpy() for b in moments.buffers()] for name, moments in scale.named()}


def seen(policy):
    """How many observations its statistics are of."""
    return round(scale_of(policy).moments[0].count.item(), 3)


def parts(observation):
    """With its names; "" where it is one."""
    return observation if isinstance(observation, dict) else {"": observation}


class Watches(BaseCallback):
    """Every rollout, its update, and the statistics at each of their steps.

    :param meanwhile: called at each step of the environments
    """

    def __init__(self, meanwhile=lambda model: None):
        super().__init__()
        self.meanwhile = meanwhile
        self.counts, self.means, self.observations, self.evaluated = [[]], [[]], [], []

    def _on_training_start(self):
        gradient, fit = self.model.control_variate.gradient, self.model.critic.fit

        def evaluated(output, *args):
            self.look()
            log_probs = self.model.rollout_buffer.log_probs.ravel()
            self.evaluated.append((np.sort(output.log_prob.detach().numpy()), np.sort(log_probs)))
            return gradient(output, *args)

        def fitted(*args):
            fit(*args)
            self.look()
            buffer = self.model.rollout_buffer.observations
            self.observations.append({k: v.copy() for k, v in parts(buffer).items()})

        self.model.control_variate.gradient, self.model.critic.fit = evaluated, fitted

    def look(self):
        (_, moments), *_ = scale_of(self.model.policy).named()
        self.counts[-1].append(moments.count.item())
        self.means[-1].append(moments.mean.sum().item())

    def _on_rollout_start(self):
        if self.counts[-1]:
            self.counts.append([])
            self.means.append([])
        self.look()

    def _on_step(self):
        self.look()
        self.meanwhile(self.model)
        return True


def require_same_statistics(watched):
    """The policy that acted is the one that is evaluated and stepped, in every rollout."""
    assert len(watched.evaluated) >= 4
    for now, then in watched.evaluated:
        np.testing.assert_allclose(now, then, rtol=0, atol=1e-6)
    for counts, means in zip(watched.counts, watched.means, strict=True):
        assert len(counts) > 3  # steps, the evaluation and the fit of V
        assert len({*counts}) == len({*means}) == 1


@pytest.mark.parametrize("case", CASES)
def test_a_policy_acts_and_is_updated_by_the_same_statistics(case):
    watched = Watches()
    model = make(case).learn(90, watched)
    require_same_statistics(watched)
    counts = [of_rollout[0] for of_rollout in watched.counts]
    assert counts[0] == 1e-4
    for before, after, observations in zip(counts, counts[1:], watched.observations, strict=False):
        steps, envs = next(iter(observations.values())).shape[:2]
        assert after == pytest.approx(before + steps * envs, rel=1e-9)
    for name, (mean, var, count) in statistics(scale_of(model.policy)).items():
        expected = RunningMeanStd(shape=mean.shape)
        for of_rollout in watched.observations:
            expected.update(of_rollout[name].reshape(-1, *mean.shape).astype(np.float64))
        np.testing.assert_allclose(mean, expected.mean, rtol=1e-9)
        np.testing.assert_allclose(var, expected.var, rtol=1e-9)
        assert count == pytest.approx(expected.count)


def test_statistics_that_move_within_a_rollout_are_noticed():
    def move(model):
        scale_of(model.policy).observe(model.rollout_buffer.observations)

    watched = Watches(meanwhile=move)
    make().learn(90, watched)
    with pytest.raises(AssertionError):
        require_same_statistics(watched)
    watched.counts = watched.means = []
    with pytest.raises(AssertionError, match="Not equal to tolerance"):  # the probabilities alone tell as well
        require_same_statistics(watched)


@pytest.mark.parametrize("space", [VECTOR, DOUBLE, PARTS], ids=["float32", "float64", "parts"])
def test_it_is_vec_normalize(space):
    """Which sees a step of all environments at a time."""
    env = VecNormalize(
        DummyVecEnv([lambda: Env(DISCRETE, observation_space=space)] * 3),
        norm_obs_keys=["vector", "bytes"] if space is PARTS else None,
    )
    scale = ObservationScale(space, normalize_images=True)
    raw = [env.reset() and env.get_original_obs() if space is PARTS else (env.reset(), env.get_original_obs())[1]]
    for _ in range(39):
        env.step([0, 0, 0])
        raw.append(env.get_original_obs())
    rollout = {name: np.stack([parts(step)[name] for step in raw]) for name in parts(raw[0])}
    for start in (0, 5, 20):  # three rollouts of several lengths
        end = {0: 5, 5: 20, 20: 40}[start]
        part = {name: steps[start:end] for name, steps in rollout.items()}
        scale.observe(part if space is PARTS else part[""])
    theirs = env.obs_rms if space is PARTS else {"": env.obs_rms}
    assert {*scale.names} == {*theirs}
    for name, (mean, var, count) in statistics(scale).items():
        # VecNormalize sums float32 observations in float32
        np.testing.assert_allclose(mean / np.sqrt(var), theirs[name].mean / np.sqrt(var), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(var, theirs[name].var, rtol=1e-5)
        assert count == pytest.approx(theirs[name].count)
        theirs[name].mean, theirs[name].var = mean, var
    # far observations are clipped, and what is not normalised stays
    far = {name: np.concatenate([step, step * 50]) if name != "phase" else step for name, step in parts(raw[3]).items()}
    given = {name: th.as_tensor(value) for name, value in far.items()}
    ours = parts(scale(given if space is PARTS else given[""]))
    expected = parts(env.normalize_obs(far if space is PARTS else far[""]))
    for name, value in expected.items():
        np.testing.assert_array_equal(ours[name].numpy(), value)
    assert any(np.abs(value).max() == 10 for value in expected.values() if value.dtype == np.float32)


def test_statistics_may_be_of_one_number_or_of_huge_ones():
    scale = ObservationScale(spaces.Box(-np.inf, np.inf, (), np.float32), normalize_images=True)
    scale.observe(np.float32([[1e30, 3e30]]))
    assert scale(th.tensor([1e30, 3e30])).numpy() == pytest.approx([-1, 1], rel=1e-3)
    assert scale(th.tensor([1e38])).item() == 10


@pytest.mark.parametrize("case", CASES)
def test_an_agent_is_saved_with_its_statistics_and_acts_as_it_did(case, tmp_path):
    model = make(case).learn(60)
    model.save(tmp_path / "agent")
    loaded = type(model).load(tmp_path / "agent", device="cpu")
    other = make(case, seed=1)
    other.set_parameters(str(tmp_path / "agent"))
    given = make(case, seed=2)
    given.set_parameters(model.get_parameters())
    expected = model.policy.state_dict()
    for each in (loaded, other, given):
        state = each.policy.state_dict()
        assert state.keys() == expected.keys()
        assert all(th.equal(value, expected[name]) for name, value in state.items())
        assert isinstance(each.policy.features_extractor, NormalizingExtractor)


@pytest.mark.parametrize("case", ["RELAXA2C", "parts", "extractors apart", "memory", "masks"])
def test_a_loaded_agent_learns_on_as_the_agent_itself(case, tmp_path):
    model = make(case).learn(40)
    model.save(tmp_path / "agent")
    states = []
    for agent in (model, type(model).load(tmp_path / "agent", device="cpu")):
        agent.set_env(make(case).get_env())
        agent.set_random_seed(3)
        agent.learn(40, reset_num_timesteps=False)
        states.append(agent.policy.state_dict())
    assert all(th.equal(value, states[1][name]) for name, value in states[0].items())
    assert seen(model.policy) == 96


@pytest.mark.parametrize(("case", "kind"), [("RELAXA2C", ActorCriticPolicy), ("parts", MultiInputActorCriticPolicy)])
@pytest.mark.parametrize("normalize_images", [True, False])
def test_a_policy_is_saved_alone(case, kind, normalize_images, tmp_path):
    image = IMAGE if normalize_images else spaces.Box(0, 1, (3, 36, 36), np.float32)
    space = {"RELAXA2C": VECTOR, "parts": spaces.Dict({**PARTS.spaces, "image": image})}[case]
    env = DummyVecEnv([lambda: Env(DISCRETE, observation_space=space)])
    name = {"RELAXA2C": "MlpPolicy", "parts": "MultiInputPolicy"}[case]
    arguments = dict(policy_kwargs=dict(normalize_images=normalize_images), device="cpu", normalize_observations=True)
    model = RELAXA2C(name, env, **arguments).learn(20)
    assert case != "parts" or scale_of(model.policy).names == ["bytes", "vector"]
    model.policy.save(tmp_path / "policy")
    loaded = kind.load(tmp_path / "policy", device="cpu")
    observation = env.reset()
    given = [policy.obs_to_tensor(observation)[0] for policy in (model.policy, loaded)]
    values = [policy.predict_values(each).item() for policy, each in zip((model.policy, loaded), given, strict=True)]
    assert values[0] == values[1] != 0
    # put into the agent, it goes on from there
    model.policy = loaded
    model.learn(5, reset_num_timesteps=False)
    assert seen(loaded) == 25


def test_a_policy_that_treats_observations_otherwise_is_refused():
    for wanted in (True, False):
        model, other = make(normalize_observations=wanted), make(normalize_observations=not wanted)
        model.policy = other.policy
        with pytest.raises(UsageError, match=f"make the agent with normalize_observations={not wanted}"):
            model.learn(16)


def test_parameters_of_an_agent_with_the_other_value_are_refused(tmp_path):
    for wanted in (True, False):
        model = make(normalize_observations=wanted)
        model.save(tmp_path / "agent")
        message = f"of an agent with normalize_observations={wanted}: give this one the same"
        with pytest.raises(ParametersDoNotFit, match=message):
            make(normalize_observations=not wanted).set_parameters(model.get_parameters())
        with pytest.raises(ParametersDoNotFit, match=message):
            RELAXA2C.load(tmp_path / "agent", normalize_observations=not wanted)


@pytest.mark.parametrize(
    ("space", "policy"),
    [
        (IMAGE, "CnnPolicy"),
        (IMAGE, "MlpPolicy"),
        (spaces.Discrete(5), "MlpPolicy"),
        (spaces.MultiBinary(5), "MlpPolicy"),
        (spaces.Dict({"image": IMAGE, "phase": spaces.Discrete(3)}), "MultiInputPolicy"),
    ],
)
def test_what_has_nothing_to_normalise_is_refused(space, policy):
    env = DummyVecEnv([lambda: Env(DISCRETE, observation_space=space)])
    with pytest.raises(
        UsageError,
        match=r"normalize_observations=True finds nothing to normalise in .*Set normalize_observations=False",
    ):
        RELAXA2C(policy, env, normalize_observations=True)
    RELAXA2C(policy, env)


def test_without_it_the_policy_is_sb3s():
    ours, theirs = make(normalize_observations=False), A2C("MlpPolicy", make().get_env(), seed=0, device="cpu")
    assert ours.policy.state_dict().keys() == theirs.policy.state_dict().keys()
    assert scale_of(ours.policy) is None


def test_weights_are_those_of_the_agent_without_it():
    """Nothing is drawn for it, and the order in which optimizers have the weights stays."""
    for case in ("parts", "extractors apart"):
        policies = [make(case, normalize_observations=each).policy for each in (True, False)]
        assert all(map(th.equal, *(policy.parameters() for policy in policies)))
        assert len([*policies[0].parameters()]) == len([*policies[1].parameters()])


def test_statistics_go_on_where_the_extractor_is_inside_another_module():
    model = make()
    model.policy.features_extractor = th.nn.DataParallel(model.policy.features_extractor)
    model.learn(32)
    assert seen(model.policy) == 32
    assert has_scale(model.policy.state_dict())


def test_extractors_apart_have_one_scale():
    policy = make("extractors apart").policy
    assert policy.vf_features_extractor is not policy.pi_features_extractor is policy.features_extractor
    assert policy.vf_features_extractor.scale is policy.pi_features_extractor.scale is scale_of(policy)
    policy = make("parts").policy
    assert policy.vf_features_extractor is policy.pi_features_extractor is policy.features_extractor


def test_evaluation_and_callbacks_need_nothing_else(tmp_path):
    model = make("LAXA2C", n_steps=4)
    eval_env = DummyVecEnv([lambda: Env(BOX, observation_space=VECTOR)])
    callback = EvalCallback(eval_env, eval_freq=10, n_eval_episodes=2, best_model_save_path=str(tmp_path), warn=False)
    model.learn(40, callback)
    before = statistics(scale_of(model.policy))
    evaluate_policy(model, eval_env, n_eval_episodes=3, warn=False)
    np.testing.assert_equal(statistics(scale_of(model.policy)), before)
    best = LAXA2C.load(tmp_path / "best_model", device="cpu")
    assert seen(best.policy) > 0


def test_a_copy_to_measure_with_has_the_same_statistics_and_leaves_them():
    model = make("LAXA2C").learn(40)
    copy = frozen_copy(model, seed=1)
    np.testing.assert_equal(statistics(scale_of(copy.policy)), statistics(scale_of(model.policy)))
    callback = GradientVarianceCallback(make("LAXA2C").get_env(), every=20, n_rollouts=4)
    counts = []
    model.learn(40, [callback, Counts(counts)], reset_num_timesteps=False)
    assert counts == sorted(counts)
    assert seen(model.policy) == 96


class Counts(BaseCallback):
    """The count of observations at each step."""

    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def _on_step(self):
        self.counts.append(seen(self.model.policy))
        return True


def test_vec_normalize_goes_on_working():
    env = VecNormalize(make().get_env())
    model = RELAXA2C("MlpPolicy", env, seed=0, device="cpu").learn(40)
    assert scale_of(model.policy) is None
    assert env.obs_rms.count > 40
    RELAXA2C("MlpPolicy", env, seed=0, device="cpu", normalize_observations=True).learn(20)
