"""Exported policies give the actions of predict(): all action spaces, observations and post-processings, any batch."""

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_relax import LAXA2C, RELAXA2C, HybridRELAXA2C, optional
from sb3_relax.errors import UsageError
from sb3_relax.export import Controller, to_onnx, to_torchscript
from tests.export.running import RUNS, decided, run_onnx, run_torchscript, seen
from tests.helpers import ACTION_SPACES, TinyEnv

AGENTS = Path(__file__).parents[2] / "agents"
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
    return decided(model)  # of a Box, some beyond the bounds


def observations(space, n):
    if isinstance(space, spaces.Dict):
        return {name: observations(part, n) for name, part in space.spaces.items()}
    space.seed(n)  # images of noise are much alike: not any fifty of them call for more than one action
    return np.stack([np.asarray(space.sample()) for _ in range(n)])


def predict(model, observation, vec_normalize=None):
    if vec_normalize is not None:
        observation = vec_normalize.normalize_obs(observation)
    return model.predict(observation, deterministic=True)[0]


#: an export to ONNX takes seconds: what the others have alone
ONNX_CASES = ("discrete", "multidiscrete", "multibinary", "clipped", "image, squashed", "dict")


@pytest.mark.parametrize(
    ("export", "case"),
    [(run_torchscript, case) for case in CASES] + [(run_onnx, case) for case in ONNX_CASES],
)
def test_actions_are_those_of_predict(export, case, tmp_path):
    model = make_model(*CASES[case])
    run = export(model, tmp_path / "agent")
    assert [file.name for file in tmp_path.iterdir()] == ["agent"]  # no weights beside it
    for n in (1, 7, 50):
        given = observations(model.observation_space, n)
        expected = predict(model, given)
        np.testing.assert_allclose(run(given)["action"], expected, rtol=1e-4, atol=1e-4)
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize("export", RUNS)
def test_actions_of_several_parts_are_flat(export, tmp_path):
    """Box parts inside their bounds, discrete ones counted from 0; unflatten() makes them the environment's."""
    parts = spaces.Dict(at=BOX, what=spaces.Discrete(3, start=1), bits=spaces.MultiBinary(2))
    env = DummyVecEnv([lambda: TinyEnv(parts, observation_space=VECTOR)])
    model = decided(HybridRELAXA2C("MlpPolicy", env, device="cpu"))
    given = observations(VECTOR, 50)
    flat = export(model, tmp_path / "agent", value=True)(given)["action"]
    expected = model.predict(given, deterministic=True)[0]
    np.testing.assert_allclose(flat, [model.action_space.flatten(action) for action in expected], rtol=1e-4, atol=1e-4)
    assert {action["what"] for action in model.action_space.unflatten(flat)} == {1, 2, 3}
    assert all(BOX.contains(action["at"]) for action in model.action_space.unflatten(flat))
    with pytest.raises(UsageError, match="False: actions of several parts are exported without them"):
        Controller(model, probabilities=True)


@pytest.mark.parametrize("case", ["clipped", "dict"])
@pytest.mark.parametrize("export", RUNS)
def test_the_statistics_of_vec_normalize_go_along(case, export, tmp_path):
    action_space, observation_space, policy, arguments = CASES[case]
    if case == "dict":
        observation_space = spaces.Dict({"vector": VECTOR, "other": spaces.Box(-9.0, 9.0, (2,), np.float32)})
    model = make_model(action_space, observation_space, policy, arguments, normalize=True)
    vec_normalize = model.get_vec_normalize_env()
    run = export(model, tmp_path / "agent", vec_normalize)
    given = observations(observation_space, 50)
    expected = predict(model, given, vec_normalize)
    np.testing.assert_allclose(run(given)["action"], expected, rtol=1e-3, atol=1e-3)
    assert not np.allclose(expected, predict(model, given), atol=0.1)


@pytest.mark.parametrize("export", RUNS)
@pytest.mark.parametrize(("algorithm", "env_id"), [(RELAXA2C, "CartPole-v1"), (LAXA2C, "Pendulum-v1")])
def test_real_episodes_of_trained_agents(algorithm, env_id, export, tmp_path):
    folder = AGENTS / algorithm.__name__.lower() / f"{env_id}_1"
    model = algorithm.load(folder / f"{env_id}.zip", device="cpu")
    env = make_vec_env(env_id, seed=0)
    vec_normalize = None
    if algorithm is LAXA2C:  # this one was trained with it
        env = vec_normalize = VecNormalize.load(str(folder / env_id / "vecnormalize.pkl"), env)
        env.training = False
    discrete = algorithm is RELAXA2C
    run = export(model, tmp_path / "agent", vec_normalize, probabilities=discrete, value=True)
    observation, actions, ended = env.reset(), [], 0
    while not ended:
        expected = predict(model, observation)
        given = run(observation if vec_normalize is None else vec_normalize.get_original_obs())
        np.testing.assert_allclose(given["action"], expected, rtol=1e-4, atol=1e-4)
        tensor = model.policy.obs_to_tensor(observation)[0]
        value = model.policy.predict_values(tensor).detach().numpy().ravel()
        np.testing.assert_allclose(given["value"], value, rtol=1e-4, atol=1e-5)
        if discrete:
            probabilities = model.policy.get_distribution(tensor).distribution.probs.detach().numpy()
            np.testing.assert_allclose(given["action_probabilities"], probabilities, atol=1e-5)
        actions.append(expected)
        observation, _, done, _ = env.step(expected)
        ended += done.sum()
    assert len(actions) >= 200
    assert seen(actions) > 1


@pytest.mark.parametrize("export", RUNS)
@pytest.mark.parametrize("case", ["multidiscrete", "multibinary"])
def test_probabilities_of_several_variables(case, export, tmp_path):
    model = make_model(*CASES[case])
    given = observations(model.observation_space, 9)
    probabilities = export(model, tmp_path / "agent", probabilities=True)(given)["action_probabilities"]
    inner = model.policy.get_distribution(model.policy.obs_to_tensor(given)[0]).distribution
    parts = [one.probs for one in inner] if case == "multidiscrete" else [inner.probs]
    np.testing.assert_allclose(probabilities, np.hstack([part.detach().numpy() for part in parts]), atol=1e-5)


@pytest.mark.parametrize("export", RUNS)
def test_parts_of_a_dict_keep_their_names_whatever_their_order(export, tmp_path):
    # z is before a, and alike; and one has the name of an output
    space = spaces.Dict([(name, spaces.Box(-3.0, 3.0, (2,), np.float32)) for name in ("z", "a", "action")])
    model = make_model(BOX, space, "MultiInputPolicy", {})
    run = export(model, tmp_path / "agent")
    given = {name: observations(part, i + 5)[:5] for i, (name, part) in enumerate(space.spaces.items())}
    expected = predict(model, given)
    if export is run_onnx:
        given["observation_action"] = given.pop("action")
    np.testing.assert_allclose(run(given)["action"], expected, rtol=1e-4, atol=1e-4)


def test_agents_of_sb3_are_exported_too(tmp_path):
    model = decided(A2C("MlpPolicy", "CartPole-v1", device="cpu"))
    given = observations(VECTOR, 9)[:, :4]
    action = run_torchscript(model, tmp_path / "agent")(given)["action"]
    np.testing.assert_array_equal(action, predict(model, given))


def test_exporting_draws_no_random_number(tmp_path):
    space = spaces.Box(-1.0, 1.0, (3,), np.float32, seed=5)
    model = make_model(spaces.Discrete(2), space, "MlpPolicy", {})
    before = space.np_random.bit_generator.state
    to_torchscript(model, tmp_path / "agent")
    assert space.np_random.bit_generator.state == before


@pytest.mark.parametrize("write", [to_onnx, to_torchscript])
def test_a_missing_folder_is_made_as_save_makes_it(write, tmp_path):
    model = make_model(*CASES["discrete"])
    model.save(tmp_path / "saved" / "agent")
    path = write(model, str(tmp_path / "exported" / "agent"))
    assert path == tmp_path / "exported" / "agent"
    assert [file.name for file in path.parent.iterdir()] == ["agent"]  # the weights are in the file itself


def test_what_cannot_be_exported_is_refused(monkeypatch, tmp_path):
    with pytest.raises(TypeError, match="only actor-critic policies can be exported; got DQNPolicy"):
        Controller(DQN("MlpPolicy", "CartPole-v1", device="cpu", buffer_size=10))
    with pytest.raises(UsageError, match="probabilities must be False: Box actions have a density"):
        Controller(make_model(*CASES["box"]), probabilities=True)
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"onnx, onnxscript not installed: pip install 'sb3_relax\[export\]'"):
        to_onnx(make_model(*CASES["box"]), tmp_path / "agent.onnx")
