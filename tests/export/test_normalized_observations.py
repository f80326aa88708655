"""Agents with normalize_observations, exported: they act as predict() does, in any program."""

import pickle
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_relax
from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.errors import UsageError
from sb3_relax.export import Controller, to_a2c
from sb3_relax.policy_gradient.observation_scale import scale_of
from tests.export.running import RUNS, decided, seen
from tests.helpers import ACTION_SPACES, TinyEnv

VECTOR = spaces.Box(np.float32([-1.0, 100.0, -1e-3]), np.float32([1.0, 300.0, 1e-3]))
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
OBSERVATIONS = {
    "a vector": (VECTOR, "MlpPolicy", {}),
    "float64": (spaces.Box(-9.0, 900.0, (4,), np.float64), "MlpPolicy", {}),
    "a dict": (
        spaces.Dict({"image": IMAGE, "phase": spaces.Discrete(3), "vector": VECTOR}),
        "MultiInputPolicy",
        dict(policy_kwargs=dict(share_features_extractor=False)),
    ),
}


class Masked(TinyEnv):
    def action_masks(self):
        return [True, True, self.t % 2 == 0]


def env_of(space, action_space=ACTION_SPACES["discrete"], n=2):
    return DummyVecEnv([lambda: Masked(action_space, observation_space=deepcopy(space))] * n)


def make(case, action_space=ACTION_SPACES["discrete"]):
    space, policy, arguments = deepcopy(OBSERVATIONS[case])
    algorithm = LAXA2C if isinstance(action_space, spaces.Box) else RELAXA2C
    env = env_of(space, action_space)
    arguments = dict(normalize_observations=True, n_steps=8, seed=0, device="cpu", **arguments)
    model = decided(algorithm(policy, env, **arguments).learn(64))
    with th.no_grad():
        model.policy.mlp_extractor.policy_net[0].weight[:, -3:].mul_(10)  # the vector matters beside an image
    return model


def met(model, steps=15):
    """Observations of some episodes of the agent's, every other one far off, and what it does about them."""
    env = model.get_env()
    observation = env.reset()
    for i in range(steps):
        yield observation, model.predict(observation, deterministic=True)[0]
        far = deepcopy(observation)
        (far["vector"] if isinstance(far, dict) else far)[:] *= (-1) ** i * 500
        action, _ = model.predict(far, deterministic=True)
        yield far, action
        observation, *_ = env.step(action)


@pytest.mark.parametrize("export", RUNS)
@pytest.mark.parametrize("case", OBSERVATIONS)
def test_files_take_what_the_environment_gives(export, case, tmp_path):
    model = make(case)
    run = export(model, tmp_path / "agent", value=True)
    actions = []
    for observation, action in met(model):
        outputs = run(observation)
        np.testing.assert_array_equal(outputs["action"], action)
        tensor = model.policy.obs_to_tensor(observation)[0]
        values = model.policy.predict_values(tensor).detach().numpy().ravel()
        np.testing.assert_allclose(outputs["value"], values, rtol=1e-4, atol=1e-5)
        actions.append(action)
    assert seen(actions) > 1


@pytest.mark.parametrize("name", ["MaskableRELAXA2C", "RecurrentRELAXA2C", "MaskableRecurrentRELAXA2C"])
def test_so_do_those_with_masks_and_memory(name):
    pytest.importorskip("sb3_contrib")
    recurrent, masked = "Recurrent" in name, "Maskable" in name
    algorithm, policy = getattr(sb3_relax, name), "MlpLstmPolicy" if recurrent else "MlpPolicy"
    arguments = dict(normalize_observations=True, n_steps=8, seed=0, device="cpu")
    model = decided(algorithm(policy, env_of(VECTOR), **arguments).learn(64))
    controller, observation = Controller(model), model.get_env().reset()
    given = dict(zip(controller.inputs, controller.example()[1:], strict=True))
    masks = {"action_masks": given["action_masks"].numpy()} if masked else {}
    action, _ = model.predict(observation, episode_start=np.ones(2, bool), deterministic=True, **masks)
    outputs = controller(model.policy.obs_to_tensor(observation)[0], *given.values())
    np.testing.assert_array_equal((outputs[0] if recurrent else outputs).numpy(), action)
    with pytest.raises(TypeError, match=r"export it with to_onnx\(\) or to_torchscript\(\), which keep its normal"):
        to_a2c(model)


#: what A2C and VecNormalize load of each agent in the folder does with what was met
WITHOUT_THE_PACKAGE = """
import pathlib, pickle, sys
sys.modules["sb3_relax"] = None  # an import of it, or of anything in it, is an error
import numpy as np
from stable_baselines3 import A2C

for file in pathlib.Path(sys.argv[1]).glob("*.zip"):
    model = A2C.load(file, device="cpu")
    assert type(model) is A2C
    vec_normalize = pickle.loads(file.with_suffix(".pkl").read_bytes())
    for observation, action in pickle.loads(file.with_suffix(".met").read_bytes()):
        given = vec_normalize.normalize_obs(observation)
        np.testing.assert_array_equal(model.predict(given, deterministic=True)[0], action)
    file.with_suffix(".done").touch()
"""


def test_a2c_acts_alike_behind_vec_normalize_and_needs_no_package(tmp_path):
    for case in OBSERVATIONS:
        model = make(case)
        assert to_a2c(model, env_of(OBSERVATIONS[case][0])).get_vec_normalize_env() is not None
        a2c = to_a2c(model, env_of(OBSERVATIONS[case][0], n=3))
        assert (type(a2c), a2c.n_envs) == (A2C, 3)
        env = a2c.get_vec_normalize_env()
        observations = list(met(model))
        for observation, action in observations:
            given = env.normalize_obs(observation)
            np.testing.assert_array_equal(a2c.predict(given, deterministic=True)[0], action)
        far = env.normalize_obs(observations[1][0])
        assert np.abs(far["vector"] if case == "a dict" else far).max() == 10
        a2c.save(tmp_path / case)
        env.save(str(tmp_path / f"{case}.pkl"))
        (tmp_path / f"{case}.met").write_bytes(pickle.dumps(observations))
    subprocess.run([sys.executable, "-c", WITHOUT_THE_PACKAGE, str(tmp_path)], check=True, cwd=tmp_path)
    assert len([*tmp_path.glob("*.done")]) == len(OBSERVATIONS)


def test_a2c_learns_on_with_the_agents_statistics():
    model = make("a vector", ACTION_SPACES["box"])
    a2c = to_a2c(model, env_of(VECTOR, ACTION_SPACES["box"]))
    env = a2c.get_vec_normalize_env()
    (_, moments), *_ = scale_of(model.policy).named()
    before = moments.count.item()
    a2c.learn(16)
    assert env.obs_rms.count == before
    env.training = True
    a2c.learn(16, reset_num_timesteps=False)
    assert env.obs_rms.count > before == moments.count.item()
    evaluated = VecNormalize(env_of(VECTOR), training=False)
    assert evaluated.obs_rms.count < 1  # nothing of it is shared


def test_a2c_without_an_environment_to_normalise_is_refused():
    with pytest.raises(UsageError, match=r"use to_a2c\(model, env\), which wraps env in a VecNormalize"):
        to_a2c(make("a vector"))


def test_an_environment_alone_is_refused():
    with pytest.raises(UsageError, match=r"env must be a VecEnv, as .*make_vec_env makes it; got <TinyEnv"):
        to_a2c(make("a vector"), TinyEnv(ACTION_SPACES["discrete"], observation_space=VECTOR))


def test_other_agents_get_the_environment_as_it_is():
    env = env_of(VECTOR, n=3)
    a2c = to_a2c(RELAXA2C("MlpPolicy", env_of(VECTOR), device="cpu"), env)
    assert a2c.get_env() is env
    assert a2c.get_vec_normalize_env() is None
    a2c.learn(30)
