"""Exported agents of VecNormalize take what the environment gives, in its dtype, and scale it as VecNormalize does."""

import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from sb3_relax import RELAXA2C
from sb3_relax.errors import UsageError
from sb3_relax.export import Controller, to_torchscript
from tests.export.running import RUNS, decided, onnx_session, run_onnx, seen
from tests.helpers import TinyEnv

IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
#: float64 as MuJoCo's observations
VECTOR = spaces.Box(-9.0, 9.0, (4,), np.float64)
#: never handed to an environment: VecNormalize writes its own dtypes into a Dict
OBSERVATIONS = {
    "an image": (IMAGE, "CnnPolicy"),
    "an image, flattened": (IMAGE, "MlpPolicy"),
    "a dict": (spaces.Dict({"image": IMAGE, "vector": VECTOR}), "MultiInputPolicy"),
    "bytes": (spaces.Box(0, 255, (7,), np.uint8), "MlpPolicy"),
    "float64": (VECTOR, "MlpPolicy"),
}


class StillImages(TinyEnv):
    """Most pixels never change, so that their variance is close to 0."""

    def _observe(self):
        observation = super()._observe()
        image = observation["image"] if isinstance(observation, dict) else observation
        if image.dtype == np.uint8 and image.ndim == 3:
            image[:, 4:] = 77
        return observation


def make(space, policy, venv_class=DummyVecEnv, wrap=VecNormalize, **arguments):
    space = deepcopy(space)
    env = wrap(venv_class([lambda: StillImages(spaces.Discrete(3), observation_space=space)] * 2), **arguments)
    normalized = {"normalize_images": False} if policy != "MlpPolicy" else {}
    return decided(RELAXA2C(policy, env, policy_kwargs=normalized, device="cpu", seed=0).learn(30))


def dtypes(space):
    parts = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
    return {name: part.dtype for name, part in parts.items()}


@pytest.mark.parametrize("export", RUNS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_what_the_environment_gives_goes_in(export, observation, tmp_path):
    space, policy = OBSERVATIONS[observation]
    given_dtypes = dtypes(space)
    model = make(space, policy)
    vec_normalize = model.get_vec_normalize_env()
    vec_normalize.training = False
    run = export(model, tmp_path / "agent", vec_normalize)
    normalized, actions = vec_normalize.reset(), []
    for _ in range(20):
        expected, _ = model.predict(normalized, deterministic=True)
        raw = vec_normalize.get_original_obs()
        parts = raw if isinstance(raw, dict) else {"observation": raw}
        assert {name: part.dtype for name, part in parts.items()} == given_dtypes
        np.testing.assert_array_equal(run(raw)["action"], expected)
        actions.append(expected)
        normalized, *_ = vec_normalize.step(expected)
    assert seen(actions) > 1
    if export is run_onnx:
        types = {given.name: given.type for given in onnx_session(tmp_path / "agent").get_inputs()}
        names = {"uint8": "tensor(uint8)", "float64": "tensor(double)"}
        assert types == {name: names[str(dtype)] for name, dtype in given_dtypes.items()}


def test_statistics_that_were_saved_do_as_well(tmp_path):
    model = make(*OBSERVATIONS["a dict"])
    model.get_vec_normalize_env().save(tmp_path / "statistics.pkl")
    space = spaces.Dict({"image": IMAGE, "vector": VECTOR})
    fresh = DummyVecEnv([lambda: StillImages(spaces.Discrete(3), observation_space=space)])
    loaded = VecNormalize.load(str(tmp_path / "statistics.pkl"), fresh)
    image, vector = Controller(model, loaded).example()[0].values()
    assert (image.dtype, vector.dtype) == (th.uint8, th.float64)


def test_processes_of_their_own_do_as_well():
    model = make(*OBSERVATIONS["a dict"], venv_class=SubprocVecEnv)
    image, vector = Controller(model, model.get_vec_normalize_env()).example()[0].values()
    assert (image.dtype, vector.dtype) == (th.uint8, th.float64)
    model.get_env().close()


def test_parts_that_are_not_normalized_stay_as_they_are(tmp_path):
    space = spaces.Dict({"image": IMAGE, "vector": VECTOR})
    model = make(space, "MultiInputPolicy", norm_obs_keys=["vector"])
    vec_normalize = model.get_vec_normalize_env()
    run = run_onnx(model, tmp_path / "agent", vec_normalize)
    raw = vec_normalize.get_original_obs()
    expected, _ = model.predict(vec_normalize.normalize_obs(raw), deterministic=True)
    np.testing.assert_array_equal(run(raw)["action"], expected)


def test_scaling_that_is_off_leaves_observations_as_they_are():
    model = make(*OBSERVATIONS["float64"], norm_obs=False)
    given = th.randn(3, 4, dtype=th.float64)
    expected, _ = model.predict(given.numpy(), deterministic=True)
    np.testing.assert_array_equal(Controller(model, model.get_vec_normalize_env())(given), expected)


def test_statistics_of_other_observations_are_refused():
    model = make(VECTOR, "MlpPolicy", wrap=lambda env: VecFrameStack(VecNormalize(env), 3))
    with pytest.raises(UsageError, match=r"of shape \(4,\), and the policy takes Box.*must be the outermost wrapper"):
        Controller(model, model.get_vec_normalize_env())


def test_a_dict_of_which_nothing_was_seen_is_refused():
    space = deepcopy(OBSERVATIONS["a dict"][0])
    env = VecNormalize(DummyVecEnv([lambda: TinyEnv(spaces.Discrete(3), observation_space=space)]))
    model = RELAXA2C("MultiInputPolicy", env, policy_kwargs={"normalize_images": False}, device="cpu")
    with pytest.raises(UsageError, match=r"has seen no observation yet.*call its reset\(\) once"):
        Controller(model, env)
    env.reset()
    Controller(model, env)


def test_statistics_are_not_left_out_without_a_word(tmp_path):
    model = make(VECTOR, "MlpPolicy")
    with pytest.warns(UserWarning, match=r"vec_normalize=model\.get_vec_normalize_env\(\)"):
        to_torchscript(model, tmp_path / "agent.pt")
    with pytest.raises(UsageError, match=r"vec_normalize must be a VecNormalize.*got 'statistics\.pkl'"):
        Controller(model, "statistics.pkl")
    model.get_vec_normalize_env().norm_obs = False
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        Controller(model)
