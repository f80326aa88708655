"""Exported policies give the actions of predict(): all action spaces, observations and post-processings, any batch."""

import numpy as np
import onnxruntime
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_relax import LAXA2C, RELAXA2C, optional
from sb3_relax.export import Controller, to_onnx, to_torchscript
from tests.helpers import ACTION_SPACES, TinyEnv

IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
VECTOR = spaces.Box(-3.0, 3.0, (5,), np.float32)
#: bounds that differ between the dimensions, and are not ±1
BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 0.5], np.float32))
SQUASHED = {"use_sde": True, "policy_kwargs": {"squash_output": True}}

CASES = {
    **{name: (space, VECTOR, "MlpPolicy", {}) for name, space in ACTION_SPACES.items()},
    "clipped": (BOX, VECTOR, "MlpPolicy", {}),
    "sde": (BOX, VECTOR, "MlpPolicy", {"use_sde": True}),
    "squashed": (BOX, VECTOR, "MlpPolicy", SQUASHED),
    "image": (spaces.Discrete(3), IMAGE, "CnnPolicy", {}),
    "image, squashed": (BOX, IMAGE, "CnnPolicy", SQUASHED),
    "one-hot": (spaces.Discrete(3), spaces.Discrete(4), "MlpPolicy", {}),
    "dict": (BOX, spaces.Dict({"vector": VECTOR, "image": IMAGE}), "MultiInputPolicy", {}),
}


def make_model(action_space, observation_space, policy, arguments, normalize=False):
    env = DummyVecEnv([lambda: TinyEnv(action_space, observation_space=observation_space)])
    if normalize:
        env = VecNormalize(env, clip_obs=1.5)
        env.reset()
        for _ in range(20):  # statistics that are neither 0 nor 1
            env.step([action_space.sample()])
    model = (LAXA2C if isinstance(action_space, spaces.Box) else RELAXA2C)(policy, env, device="cpu", **arguments)
    with th.no_grad():  # actions that depend on the state, and some beyond the bounds
        model.policy.action_net.weight.mul_(300)
    return model


def observations(space, n):
    if isinstance(space, spaces.Dict):
        return {name: observations(part, n) for name, part in space.spaces.items()}
    space.seed(n)  # images of noise are much alike: not any fifty of them call for more than one action
    return np.stack([np.asarray(space.sample()) for _ in range(n)])


def predict(model, observation, vec_normalize=None):
    if vec_normalize is not None:
        observation = vec_normalize.normalize_obs(observation)
    return model.predict(observation, deterministic=True)[0]


def run_onnx(path, observation):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, observation if isinstance(observation, dict) else {"observation": observation})[0]


def run_torchscript(path, observation):
    is_dict = isinstance(observation, dict)
    tensors = {k: th.as_tensor(v) for k, v in observation.items()} if is_dict else th.as_tensor(observation)
    return th.jit.load(path)(tensors).numpy()


#: an export to ONNX takes seconds: what the others have alone
ONNX_CASES = ("discrete", "multidiscrete", "multibinary", "clipped", "image, squashed", "dict")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("export", "run", "case"),
    [(to_torchscript, run_torchscript, case) for case in CASES] + [(to_onnx, run_onnx, case) for case in ONNX_CASES],
)
def test_actions_are_those_of_predict(export, run, case, tmp_path):
    model = make_model(*CASES[case])
    path = export(model, tmp_path / "agent")
    assert [file.name for file in tmp_path.iterdir()] == ["agent"]  # no weights beside it
    for n in (1, 7, 50):
        given = observations(model.observation_space, n)
        expected = predict(model, given)
        np.testing.assert_allclose(run(str(path), given), expected, rtol=1e-4, atol=1e-4)
    assert len(np.unique(expected)) > 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", ["clipped", "dict"])
@pytest.mark.parametrize(("export", "run"), [(to_onnx, run_onnx), (to_torchscript, run_torchscript)])
def test_the_statistics_of_vec_normalize_go_along(case, export, run, tmp_path):
    action_space, observation_space, policy, arguments = CASES[case]
    if case == "dict":  # VecNormalize takes no images
        observation_space = spaces.Dict({"vector": VECTOR, "other": spaces.Box(-9.0, 9.0, (2,), np.float32)})
    model = make_model(action_space, observation_space, policy, arguments, normalize=True)
    vec_normalize = model.get_vec_normalize_env()
    path = export(model, tmp_path / "agent", vec_normalize)
    given = observations(observation_space, 50)
    expected = predict(model, given, vec_normalize)
    np.testing.assert_allclose(run(str(path), given), expected, rtol=1e-3, atol=1e-3)
    assert not np.allclose(expected, predict(model, given), atol=0.1)


def test_what_cannot_be_exported_is_refused(monkeypatch, tmp_path):
    with pytest.raises(TypeError, match="without recurrence or action masks can be exported; got RecurrentActorCritic"):
        Controller(RecurrentPPO("MlpLstmPolicy", "CartPole-v1", device="cpu"))
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"onnx, onnxscript not installed: pip install 'sb3_relax\[export\]'"):
        to_onnx(make_model(*CASES["box"]), tmp_path / "agent.onnx")
