"""load(weights_only=True): the same agent, and not a byte of the file is run; what cannot be had so is named."""

import io
import json
import pickle

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_relax import (
    LAXA2C,
    RELAXA2C,
    HybridRELAXA2C,
    MaskableRecurrentRELAXA2C,
    MaskableRELAXA2C,
    RecurrentLAXA2C,
    RecurrentRELAXA2C,
)
from sb3_relax.algorithm.safe_load import load_without_code
from sb3_relax.algorithm.saved_agents import saver_of
from sb3_relax.algorithm.vec_normalize import load_vec_normalize
from sb3_relax.errors import NeedsTrust, UsageError
from sb3_relax.estimators import NVIL
from tests.algorithm import test_older_files as older
from tests.helpers import ACTION_SPACES, TinyEnv
from tests.payloads import Payload, in_python, members_of, weights_with_payload, went_off, with_payload, write_members

FAST = {"preset": "fast", "n_critic_steps": 2, "critic_batch_size": None}
RATES = ("learning_rate", "cv_learning_rate", "critic_learning_rate", "ent_coef", "vf_coef")
RELU = {"policy_kwargs": dict(activation_fn=th.nn.ReLU, net_arch=dict(pi=[6], vf=[5])), "use_rms_prop": False}


class OwnPolicy(ActorCriticPolicy):
    pass


def cart_pole():
    return gym.make("CartPole-v1")


def masked():
    return InvalidActionEnvDiscrete(dim=4, n_invalid_actions=2)


def parts():
    return TinyEnv(spaces.Dict(aim=spaces.Box(-1, 1, (2,), np.float32), fire=spaces.Discrete(3)))


def dict_observations():
    return TinyEnv(spaces.Discrete(3), observation_space=spaces.Dict(a=spaces.Box(-1, 1, (3,)), b=spaces.Discrete(2)))


def images():
    return TinyEnv(spaces.Discrete(2), observation_space=spaces.Box(0, 255, (36, 36, 3), np.uint8))


#: class, policy, environment, arguments
AGENTS = {
    "plain": (RELAXA2C, "MlpPolicy", cart_pole, {}),
    "preset": (RELAXA2C, "MlpPolicy", cart_pole, FAST),
    "box": (LAXA2C, "MlpPolicy", lambda: TinyEnv(ACTION_SPACES["box"]), {**RELU, "use_sde": True}),
    "bits": (RELAXA2C, "MlpPolicy", lambda: TinyEnv(ACTION_SPACES["multibinary"]), {"correction": "exact"}),
    "schedules": (RELAXA2C, "MlpPolicy", cart_pole, dict.fromkeys(RATES, LinearSchedule(0.01, 0.0, 0.5))),
    "an estimator": (RELAXA2C, "MlpPolicy", cart_pole, {"control_variate": NVIL}),
    "dict": (RELAXA2C, "MultiInputPolicy", dict_observations, {}),
    "images": (RELAXA2C, "CnnPolicy", images, {"policy_kwargs": dict(features_extractor_kwargs=dict(features_dim=8))}),
    "masks": (MaskableRELAXA2C, "MlpPolicy", masked, {}),
    "memory": (RecurrentRELAXA2C, "MlpLstmPolicy", cart_pole, {}),
    "box and memory": (RecurrentLAXA2C, "MlpLstmPolicy", lambda: TinyEnv(ACTION_SPACES["box"]), {}),
    "masks and memory": (MaskableRecurrentRELAXA2C, "MlpLstmPolicy", masked, {}),
    "parts": (HybridRELAXA2C, "MlpPolicy", parts, {}),
    "A2C": (sb3.A2C, "MlpPolicy", cart_pole, {}),
    "PPO": (sb3.PPO, "MlpPolicy", cart_pole, {"batch_size": 8, "clip_range_vf": 0.3}),
}  # fmt: skip
#: what loading anew need not keep
STATISTICS = {"_last_obs", "_last_episode_starts", "ep_info_buffer", "ep_success_buffer", "start_time"}


def saved(name, path, learn=True):
    kind, policy, make, arguments = AGENTS[name]
    model = kind(policy, make(), device="cpu", seed=1, **{"n_steps": 8, **arguments})
    if learn and name != "parts":
        model.learn(16)
    model.save(path)
    return model


def told(value):
    """Of an attribute, what a comparison can be made of."""
    return value if isinstance(value, (int, float, str, bool, type(None), type)) else repr(value).partition(" at 0x")[0]


@pytest.mark.parametrize("name", AGENTS)
def test_the_agent_is_the_one_that_load_gives(name, tmp_path, monkeypatch):
    file = tmp_path / "agent.zip"
    saved(name, file)
    kind, _, make, _ = AGENTS[name]
    plain = kind.load(file, make(), device="cpu")
    for module in ("cloudpickle.loads", "pickle.loads"):
        monkeypatch.setattr(module, None)
    if name in ("A2C", "PPO"):
        safe = load_without_code(kind, file, make(), device="cpu")
    else:
        safe = kind.load(file, make(), weights_only=True, device="cpu")
    left_out = {field for field in vars(plain) if told(vars(safe).get(field)) != told(vars(plain)[field])}
    assert {field for field in left_out if not hasattr(vars(plain)[field], "state_dict")} <= STATISTICS
    assert str(safe.get_parameters()) == str(plain.get_parameters())
    if hasattr(plain, "noise_generator"):
        assert th.equal(safe.noise_generator.get_state(), plain.noise_generator.get_state())


def test_learning_goes_on(tmp_path):
    file = tmp_path / "agent.zip"
    saved("preset", file)
    plain, safe = (
        RELAXA2C.load(file, cart_pole(), weights_only=how, seed=3, device="cpu").learn(64, reset_num_timesteps=False)
        for how in (False, True)
    )
    assert safe.num_timesteps == 16 + 64
    assert str(safe.get_parameters()) == str(plain.get_parameters())


@pytest.mark.parametrize("name", older.FILES)
def test_files_of_earlier_versions(name):
    kind, make = older.FILES[name]
    with pytest.warns(UserWarning, match="begins anew"):
        model = kind.load(older.FOLDER / f"{name}.zip", make(), weights_only=True, device="cpu")
    assert str(model.get_parameters()) == str(older.load(name).get_parameters())


@pytest.mark.parametrize("path", older.SHIPPED, ids=lambda path: path.stem)
def test_shipped_agents(path):
    if path.stem.startswith("LunarLander"):
        pytest.importorskip("pygame", reason="Box2D's environments need pygame-ce (LGPL): pip install pygame-ce")
    env = gym.make(path.stem)
    kind = LAXA2C if isinstance(env.action_space, spaces.Box) else RELAXA2C
    with pytest.warns(UserWarning, match="begins anew"):
        kind.load(path, env, weights_only=True, device="cpu")


def attempt(load):
    """What a file that strangers made may be refused with."""
    try:
        load()
    except UsageError as error:
        return error
    return None


@pytest.mark.filterwarnings("ignore:.*begins anew")
@pytest.mark.parametrize("name", ["plain", "PPO"])  # of ours, as load(weights_only=True)
def test_no_field_runs_its_code(name, tmp_path):
    whole, file, mark = tmp_path / "whole.zip", tmp_path / "agent.zip", tmp_path / "mark"
    saved(name, whole)
    kind, _, make, _ = AGENTS[name]
    fields = json.loads(members_of(whole)["data"])
    assert len(fields) > 30
    env = make()
    for field in fields:
        write_members(file, members_of(whole))
        with_payload(file, field, mark)
        attempt(lambda: load_without_code(kind, file, env, device="cpu"))
        saver_of(file)
        assert not went_off(mark), field
        try:
            kind.load(file, env, device="cpu")
        except Exception as error:  # it has done what it was made for before
            assert error is not None  # noqa: PT017
        assert went_off(mark), f"the payload in {field} is none"


def test_no_field_of_ones_own_is_lost_in_silence(tmp_path):
    file = tmp_path / "agent.zip"
    model = saved("plain", file)
    model.notes = {1, 2}
    model.save(file)
    with pytest.raises(NeedsTrust, match=r"agent\.zip.*notes \(set\).*custom_objects={'notes': \.\.\.}.*--trust"):
        RELAXA2C.load(file, cart_pole(), weights_only=True, device="cpu")
    loaded = RELAXA2C.load(file, cart_pole(), weights_only=True, device="cpu", custom_objects={"notes": {3}})
    assert loaded.notes == {3}


@pytest.mark.parametrize("member", ["policy.pth", "policy.optimizer.pth", "cv_optimizer.pth", "control_variate.pth",
                                    "pytorch_variables.pth"])  # fmt: skip
def test_no_tensor_file_runs_its_code(member, tmp_path):
    file, mark = tmp_path / "agent.zip", tmp_path / "mark"
    saved("plain", file, learn=False)
    content = weights_with_payload(mark)
    th.load(io.BytesIO(content), weights_only=False)
    assert went_off(mark)
    for payload in (content, pickle.dumps(Payload(mark))):
        write_members(file, {**members_of(file), member: payload})
        assert attempt(lambda: RELAXA2C.load(file, cart_pole(), weights_only=True, device="cpu")) is not None
        assert attempt(lambda: RELAXA2C.load(file, cart_pole(), device="cpu")) is not None
        with pytest.raises(Exception):  # noqa: B017, PT011  # torch's own
            RELAXA2C("MlpPolicy", cart_pole(), device="cpu").set_parameters(file)
        assert not went_off(mark)


def test_no_name_of_an_environment_is_imported(tmp_path, monkeypatch):
    """SB3 makes an environment of a name, where load() is given none, and gymnasium imports the module in it."""
    file, mark = tmp_path / "agent.zip", tmp_path / "mark"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "payload.py").write_text(in_python(mark))
    saved("plain", file, learn=False)
    members = members_of(file)
    members["data"] = json.dumps({**json.loads(members["data"]), "env": "payload:Own-v0"})
    write_members(file, members)
    env = cart_pole()
    given = {"observation_space": env.observation_space, "action_space": env.action_space}
    assert RELAXA2C.load(file, weights_only=True, custom_objects=given, device="cpu").env is None
    assert RELAXA2C.load(file, env, weights_only=True, device="cpu").env is not None
    assert not went_off(mark)
    with pytest.raises(gym.error.Error):
        RELAXA2C.load(file, device="cpu")
    assert went_off(mark)


def test_other_members_are_left_out(tmp_path):
    file, mark = tmp_path / "agent.zip", tmp_path / "mark"
    saved("plain", file, learn=False)
    write_members(file, {**members_of(file), "more.pkl": pickle.dumps(Payload(mark))})
    with pytest.warns(UserWarning, match=r"agent\.zip also has more\.pkl, which weights_only=True leaves out"):
        RELAXA2C.load(file, cart_pole(), weights_only=True, device="cpu")
    assert not went_off(mark)


def test_text_in_the_file_is_text(tmp_path):
    file, mark = tmp_path / "agent.zip", tmp_path / "mark"
    saved("plain", file, learn=False)
    payload = pickle.dumps(Payload(mark))
    write_members(file, {**members_of(file), "system_info.txt": payload, "_stable_baselines3_version": payload})
    RELAXA2C.load(file, cart_pole(), weights_only=True, device="cpu")
    assert not went_off(mark)


OWN = {
    "policy": (RELAXA2C, OwnPolicy, {}, "policy_class (tests.algorithm.test_safe_load", {"policy_class": OwnPolicy}),
    "activation": (RELAXA2C, "MlpPolicy", {"policy_kwargs": dict(activation_fn=th.nn.Identity)},
                   "policy_kwargs (activation_fn: <class 'torch.nn.modules.linear.Identity'>",
                   {"policy_kwargs": dict(activation_fn=th.nn.Identity)}),
    "schedule": (RELAXA2C, "MlpPolicy", {"learning_rate": lambda left: 1e-3 * left, "use_rms_prop": False},
                 "learning_rate (function", {"learning_rate": 1e-3}),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_what_is_ones_own_is_asked_for(name, tmp_path):
    file = tmp_path / "agent.zip"
    kind, policy, arguments, says, objects = OWN[name]
    kind(policy, cart_pole(), device="cpu", **{"use_rms_prop": False, **arguments}).save(file)
    with pytest.raises(NeedsTrust) as asked:
        kind.load(file, cart_pole(), weights_only=True, device="cpu")
    assert says in str(asked.value)
    loaded = kind.load(file, cart_pole(), weights_only=True, device="cpu", custom_objects=objects)
    assert loaded.get_parameters().keys() == kind.load(file, device="cpu").get_parameters().keys()


def test_what_is_given_by_keyword_is_not_asked_for(tmp_path):
    file = tmp_path / "agent.zip"
    own = dict(activation_fn=th.nn.Identity)
    RELAXA2C(
        "MlpPolicy", cart_pole(), learning_rate=lambda left: 1e-3, policy_kwargs=own, use_rms_prop=False, device="cpu"
    ).save(file)
    loaded = RELAXA2C.load(file, cart_pole(), weights_only=True, device="cpu", learning_rate=0.5, policy_kwargs=own)
    assert loaded.learning_rate == 0.5
    assert loaded.policy.activation_fn is th.nn.Identity


def test_the_environment_is_that_of_the_agent(tmp_path):
    file = tmp_path / "agent.zip"
    saved("plain", file, learn=False)
    with pytest.raises(UsageError, match=r"none was given: load\(path, env, weights_only=True\)"):
        RELAXA2C.load(file, weights_only=True, device="cpu")
    with pytest.raises(UsageError, match=r"action_space of the agent is not that of the environment.*it has n 2"):
        RELAXA2C.load(file, gym.make("Acrobot-v1"), weights_only=True, device="cpu", custom_objects={
            "observation_space": gym.make("Acrobot-v1").observation_space
        })  # fmt: skip
    with pytest.raises(UsageError, match=r"agent\.zip: the observation_space of the agent is not"):
        RELAXA2C.load(file, gym.make("Acrobot-v1"), weights_only=True, device="cpu")
    env = cart_pole()
    given = {"observation_space": env.observation_space, "action_space": env.action_space}
    RELAXA2C.load(file, weights_only=True, device="cpu", custom_objects=given).predict(np.zeros(4, np.float32))


def test_an_agent_of_another_class_is_named(tmp_path):
    file = tmp_path / "agent.zip"
    saved("memory", file, learn=False)
    with pytest.raises(UsageError, match=r"sb3_relax\.RecurrentRELAXA2C"):
        RELAXA2C.load(file, cart_pole(), weights_only=True, device="cpu")
    saved("PPO", file, learn=False)
    with pytest.raises(UsageError, match=r"stable_baselines3\.PPO"):
        RELAXA2C.load(file, cart_pole(), weights_only=True, device="cpu")


def test_settings_that_are_no_json_are_refused(tmp_path):
    file = tmp_path / "agent.zip"
    saved("plain", file, learn=False)
    for content in (b"{", b"\xff", b"[" * 100_000, b"[]", b"null"):
        write_members(file, {**members_of(file), "data": content})
        with pytest.raises(UsageError, match=r"agent\.zip cannot be read as an agent's file"):
            RELAXA2C.load(file, cart_pole(), weights_only=True, device="cpu")


def normalized(**arguments):
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2, seed=0), **arguments)
    env.reset()
    for _ in range(5):
        env.step(np.ones((2, 1), np.float32))
    return env


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("arguments", [{}, dict(norm_obs=False), dict(norm_reward=False, clip_obs=5.0, gamma=0.9)])
def test_statistics_of_vec_normalize(arguments, protocol, tmp_path):
    file = tmp_path / "vecnormalize.pkl"
    env = normalized(**arguments)
    file.write_bytes(pickle.dumps(env, protocol))
    plain, safe = (load(file, env.venv) for load in (VecNormalize.load, load_vec_normalize))
    assert type(safe) is VecNormalize
    for name in ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "training"):
        assert getattr(safe, name) == getattr(plain, name)
    assert hasattr(safe, "obs_rms") == hasattr(plain, "obs_rms")
    for name in ("obs_rms", "ret_rms"):
        if hasattr(plain, name):
            ours, theirs = getattr(safe, name), getattr(plain, name)
            assert np.array_equal(ours.mean, theirs.mean)
            assert np.array_equal(ours.var, theirs.var)
            assert ours.count == theirs.count
    observations = np.ones((2, 3), np.float32)
    assert np.array_equal(safe.normalize_obs(observations), plain.normalize_obs(observations))


def test_statistics_of_dict_observations(tmp_path):
    file = tmp_path / "vecnormalize.pkl"
    inner = DummyVecEnv([dict_observations])
    env = VecNormalize(inner, norm_obs_keys=["a"])
    env.reset()
    env.save(file)
    safe = load_vec_normalize(file, inner)
    assert safe.norm_obs_keys == ["a"]
    assert np.array_equal(safe.obs_rms["a"].mean, env.obs_rms["a"].mean)


def test_shipped_statistics():
    for path in older.SHIPPED[0].parents[2].glob("*/*/*/vecnormalize.pkl"):
        env = make_vec_env(path.parent.name, n_envs=1)
        plain, safe = (load(path, env) for load in (VecNormalize.load, load_vec_normalize))
        assert np.array_equal(plain.obs_rms.var, safe.obs_rms.var)


def test_no_field_of_vec_normalize_runs_its_code(tmp_path):
    file, mark = tmp_path / "vecnormalize.pkl", tmp_path / "mark"
    env = normalized()
    for field in env.__getstate__():
        changed = VecNormalize(env.venv)
        vars(changed)[field] = Payload(mark)
        file.write_bytes(pickle.dumps(changed))
        attempt(lambda: load_vec_normalize(file, env.venv))
        assert not went_off(mark), field
        pickle.loads(file.read_bytes())
        assert went_off(mark), f"the payload in {field} is none"
    file.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(NeedsTrust, match=r"vecnormalize\.pkl is no VecNormalize.*mkdir.*--trust"):
        load_vec_normalize(file, env.venv)
    assert not went_off(mark)


def test_statistics_of_other_observations(tmp_path):
    file = tmp_path / "vecnormalize.pkl"
    normalized().save(file)
    with pytest.raises(UsageError, match=r"vecnormalize\.pkl holds no VecNormalize that fits"):
        load_vec_normalize(file, make_vec_env("CartPole-v1"))
