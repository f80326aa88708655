"""to_a2c(): SB3's own A2C predicts the same, is loaded where this package is not, and learns on."""

import subprocess
import sys
import zipfile
from copy import deepcopy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_relax
from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.errors import UsageError
from sb3_relax.export import to_a2c
from tests.export.running import decided, seen
from tests.helpers import ACTION_SPACES, TinyEnv

BOX = spaces.Box(-1.0, 2.0, (2,), np.float32)
VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
PARTS = spaces.Dict({"vector": VECTOR, "phase": spaces.Discrete(3)})

#: action space, observation space, policy, arguments
AGENTS = {
    **{name: (space, VECTOR, "MlpPolicy", {}) for name, space in ACTION_SPACES.items()},
    "dict": (BOX, PARTS, "MultiInputPolicy", {}),
    "ours": (
        spaces.Discrete(3),
        VECTOR,
        "MlpPolicy",
        {"n_episodes": 2, "cv_guard": True, "normalize_advantage": True, "policy_kwargs": {"net_arch": {"cv": [5]}}},
    ),
    "squashed": (BOX, VECTOR, "MlpPolicy", {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
    "adam": (spaces.Discrete(3), VECTOR, "MlpPolicy", {"use_rms_prop": False, "learning_rate": lambda p: 1e-3 * p}),
}

#: for each agent in the folder: what A2C loads of it predicts for what was met
WITHOUT_THE_PACKAGE = """
import pathlib, sys
sys.modules["sb3_relax"] = None  # an import of it, or of anything in it, is an error
import numpy as np
from stable_baselines3 import A2C

for file in pathlib.Path(sys.argv[1]).glob("*.zip"):
    model = A2C.load(file, device="cpu")
    assert type(model) is A2C
    given = dict(np.load(file.with_suffix(".npz")))
    np.save(file.with_suffix(".npy"), model.predict(given.get("only", given), deterministic=True)[0])
"""


def make(case):
    action_space, observation_space, policy, arguments = deepcopy(AGENTS[case])
    algorithm = LAXA2C if isinstance(action_space, spaces.Box) else RELAXA2C
    env = DummyVecEnv([lambda: TinyEnv(action_space, observation_space=observation_space)] * 2)
    return decided(algorithm(policy, env, device="cpu", seed=3, n_steps=6, **arguments).learn(40))


def met(model, steps=20):
    """Observations of some episodes of the agent's, ``[2 * steps, ...]``."""
    env = model.get_env()
    observation, observations = env.reset(), []
    for _ in range(steps):
        observations.append(deepcopy(observation))
        observation, *_ = env.step(model.predict(observation, deterministic=True)[0])
    if isinstance(observation, dict):
        return {name: np.concatenate([one[name] for one in observations]) for name in observation}
    return np.concatenate(observations)


def test_it_predicts_the_same_and_is_loaded_without_the_package(tmp_path):
    expected = {}
    for case in AGENTS:
        model = make(case)
        observations = met(model)
        expected[case], _ = model.predict(observations, deterministic=True)
        assert seen([expected[case]]) > 1, case
        a2c = to_a2c(model)
        assert type(a2c) is A2C
        np.testing.assert_array_equal(a2c.predict(observations, deterministic=True)[0], expected[case], case)
        a2c.save(tmp_path / case)
        with zipfile.ZipFile(tmp_path / f"{case}.zip") as file:
            assert not [name for name in file.namelist() if b"sb3_relax" in file.read(name)], case
        np.savez(tmp_path / case, **(observations if isinstance(observations, dict) else {"only": observations}))
    subprocess.run([sys.executable, "-c", WITHOUT_THE_PACKAGE, str(tmp_path)], check=True, cwd=tmp_path)
    for case in AGENTS:
        np.testing.assert_array_equal(np.load(tmp_path / f"{case}.npy"), expected[case], case)


def test_it_shares_nothing_with_the_agent_and_learns_on_where_that_was():
    model = make("adam")
    before = deepcopy(model.policy.state_dict())
    a2c = to_a2c(model)
    assert (a2c.num_timesteps, a2c._n_updates) == (model.num_timesteps, model._n_updates)
    assert (a2c.n_envs, a2c.n_steps, a2c.seed) == (2, 6, 3)
    assert type(a2c.policy.optimizer) is th.optim.Adam
    for old, new in zip(model.policy.parameters(), a2c.policy.parameters(), strict=True):
        ours, theirs = model.policy.optimizer.state.get(old, {}), a2c.policy.optimizer.state.get(new, {})
        assert {*ours} == {*theirs} != set()
        assert all(th.equal(th.as_tensor(ours[key]), th.as_tensor(theirs[key])) for key in ours)
    a2c.set_env(model.get_env())
    a2c.learn(24, reset_num_timesteps=False)
    assert a2c.num_timesteps == model.num_timesteps + 24
    assert not all(th.equal(before[name], weight) for name, weight in a2c.policy.state_dict().items())
    assert all(th.equal(before[name], weight) for name, weight in model.policy.state_dict().items())


def test_an_update_is_that_of_the_agent_without_a_control_variate():
    def agent():
        return RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), device="cpu", seed=0, cv_learning_rate=0)

    model = agent().learn(20)
    a2c = to_a2c(agent().learn(20))
    for each in (model, a2c):
        env = DummyVecEnv([lambda: TinyEnv(spaces.Discrete(3))])
        env.seed(5)
        each.set_env(env)
        th.manual_seed(1)
        each.learn(20, reset_num_timesteps=False)
    for ours, theirs in zip(model.policy.parameters(), a2c.policy.parameters(), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_no_random_number_is_drawn():
    model = make("discrete")
    before, of_numpy = th.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    to_a2c(model)
    assert th.equal(before, th.get_rng_state())
    np.testing.assert_array_equal(of_numpy, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("kind", ["Maskable", "Recurrent"])
def test_what_has_no_equal_says_what_to_do_instead(kind):
    sb3_contrib = pytest.importorskip("sb3_contrib")
    algorithm = getattr(sb3_relax, f"{kind}RELAXA2C")
    policy = {"Maskable": "MlpPolicy", "Recurrent": "MlpLstmPolicy"}[kind]
    model = decided(algorithm(policy, TinyEnv(spaces.Discrete(3)), device="cpu"))
    with pytest.raises(TypeError, match=f"no policies like {kind}ActorCriticPolicy, so that none is equal") as caught:
        to_a2c(model)
    # what it says is done as it says
    call, load = str(caught.value).partition("Use plain = ")[2].partition(", where")[0].split(", and ")
    names = {"model": model, "env": model.get_env(), f"{kind}PPO": getattr(sb3_contrib, f"{kind}PPO")}
    plain = names["plain"] = eval(call, names)
    eval(load, names)
    observations = np.random.default_rng(0).uniform(-1, 1, (30, 3)).astype(np.float32)
    expected = model.predict(observations, deterministic=True)[0]
    np.testing.assert_array_equal(plain.predict(observations, deterministic=True)[0], expected)
    assert len(np.unique(expected)) > 1


def test_what_has_no_equal_anywhere_says_to_export_it():
    pytest.importorskip("sb3_contrib")
    model = sb3_relax.MaskableRecurrentRELAXA2C("MlpLstmPolicy", "CartPole-v1", device="cpu")
    with pytest.raises(TypeError, match=r"export it with to_onnx\(\).*, since sb3-contrib has none either"):
        to_a2c(model)


class Shifted(RELAXA2C):
    """Acts as its policy says, plus one: A2C has the policy alone."""

    def predict(self, *args, **kwargs):
        action, state = super().predict(*args, **kwargs)
        return action + 1, state


def test_an_agent_that_would_act_otherwise_is_refused():
    model = Shifted("MlpPolicy", TinyEnv(spaces.Discrete(3)), device="cpu")
    with pytest.raises(UsageError, match=r"acts otherwise than this Shifted with the same weights, in Discrete\(3\)"):
        to_a2c(model)


def test_others_are_refused():
    with pytest.raises(TypeError, match=r"to_a2c\(\) takes an agent of LAXA2C or RELAXA2C; got A2C"):
        to_a2c(A2C("MlpPolicy", "CartPole-v1", device="cpu"))
