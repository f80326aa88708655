"""Exported maskable and recurrent policies act as predict() does, over whole episodes of several environments."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_relax.algorithm.masked import Masked
from sb3_relax.export import Controller
from tests.export.running import RUNS, decided, run_onnx, run_torchscript, seen
from tests.helpers import ACTION_SPACES, TinyEnv

sb3_contrib = pytest.importorskip("sb3_contrib")
from sb3_contrib.common.maskable.utils import get_action_masks  # noqa: E402
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy  # noqa: E402
from sb3_contrib.common.recurrent.type_aliases import RNNStates  # noqa: E402

from sb3_relax import (  # noqa: E402
    MaskableRecurrentRELAXA2C,
    MaskableRELAXA2C,
    RecurrentLAXA2C,
    RecurrentRELAXA2C,
)

N_ENVS = 3
VECTOR = spaces.Box(-3.0, 3.0, (5,), np.float32)
PARTS = spaces.Dict({"vector": VECTOR, "image": spaces.Box(0, 255, (3, 36, 36), np.uint8)})


class MaskedEnv(TinyEnv):
    """Half of each variable's values are allowed, and never the same half for long; episodes differ in length."""

    def action_masks(self):
        space = self.action_space
        sizes = [space.n] if isinstance(space, spaces.Discrete) else getattr(space, "nvec", [2] * space.shape[0])
        masks = [np.roll(np.arange(size) < (size + 1) // 2, self.total + i) for i, size in enumerate(sizes)]
        return np.concatenate(masks)


def make(algorithm, policy, action_space, observation_space=VECTOR, **arguments):
    kind = MaskedEnv if issubclass(algorithm, Masked) else TinyEnv

    def env(length):
        return lambda: kind(action_space, length=length, observation_space=observation_space)

    venv = DummyVecEnv([env(4 + i) for i in range(N_ENVS)])
    return decided(algorithm(policy, venv, device="cpu", seed=0, n_steps=8, **arguments).learn(48))


@pytest.mark.parametrize("export", RUNS)
@pytest.mark.parametrize("space", ["discrete", "multidiscrete", "multibinary"])
def test_masked_actions(export, space, tmp_path):
    model = make(MaskableRELAXA2C, "MlpPolicy", ACTION_SPACES[space])
    run = export(model, tmp_path / "agent", probabilities=True, value=True)
    env = model.get_env()
    observation, actions, changed = env.reset(), [], 0
    for _ in range(40):
        masks = get_action_masks(env)
        expected, _ = model.predict(observation, deterministic=True, action_masks=masks)
        given = run(observation, action_masks=masks)
        np.testing.assert_array_equal(given["action"], expected)
        np.testing.assert_array_less(given["action_probabilities"][~masks], 1e-12)
        tensor = th.as_tensor(observation)
        inner = model.policy.get_distribution(tensor, masks)
        parts = [inner.distribution] if space == "discrete" else inner.distributions
        probabilities = np.hstack([part.probs.detach().numpy() for part in parts])
        np.testing.assert_allclose(given["action_probabilities"], probabilities, atol=1e-5)
        np.testing.assert_allclose(
            given["value"], model.policy.predict_values(tensor).detach().numpy().ravel(), rtol=1e-4, atol=1e-4
        )
        changed += (expected != model.predict(observation, deterministic=True)[0]).sum()
        actions.append(expected)
        observation, *_ = env.step(expected)
    assert changed > 5  # what the masks forbade was not chosen anyway
    assert seen(actions) > 1


def test_masks_of_images_and_dicts(tmp_path):
    model = make(MaskableRELAXA2C, "MultiInputPolicy", spaces.Discrete(6), PARTS)
    run = run_onnx(model, tmp_path / "agent")
    env = model.get_env()
    observation = env.reset()
    for _ in range(8):
        masks = get_action_masks(env)
        expected, _ = model.predict(observation, deterministic=True, action_masks=masks)
        np.testing.assert_array_equal(run(observation, action_masks=masks)["action"], expected)
        observation, *_ = env.step(expected)


#: what makes one recurrent policy another: which LSTMs it has, and hence which states
LSTMS = {
    "one for each": {"n_lstm_layers": 2, "lstm_hidden_size": 16},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "the actor's alone": {"enable_critic_lstm": False, "lstm_hidden_size": 16},
}


@pytest.mark.parametrize("export", RUNS)
@pytest.mark.parametrize("lstm", LSTMS)
def test_memory_over_episodes(export, lstm, tmp_path):
    model = make(RecurrentRELAXA2C, "MlpLstmPolicy", spaces.MultiDiscrete([2, 3]), policy_kwargs=LSTMS[lstm])
    run = export(model, tmp_path / "agent", probabilities=True, value=True)
    own = LSTMS[lstm].get("enable_critic_lstm", True)
    env, lstm = model.get_env(), model.policy.lstm_actor
    zeros = np.zeros((lstm.num_layers, N_ENVS, lstm.hidden_size), np.float32)
    kept = {
        f"{whose}{kind}_state": zeros for whose in (["", "critic_"] if own else [""]) for kind in ("hidden", "cell")
    }
    tensors = RNNStates((th.tensor(zeros),) * 2, (th.tensor(zeros),) * 2)
    state, start = None, np.ones(N_ENVS, bool)
    observation, actions, ended = env.reset(), [], 0
    for _ in range(30):
        expected, state = model.predict(observation, state=state, episode_start=start, deterministic=True)
        with th.no_grad():
            _, value, _, tensors = model.policy(
                th.as_tensor(observation), tensors, th.as_tensor(start).float(), deterministic=True
            )
        outputs = run(observation, **kept, episode_start=start)
        np.testing.assert_array_equal(outputs["action"], expected)
        np.testing.assert_allclose(outputs["next_hidden_state"], state[0], atol=1e-5)
        np.testing.assert_allclose(outputs["next_cell_state"], state[1], atol=1e-5)
        np.testing.assert_allclose(outputs["value"], value.flatten(), rtol=1e-4, atol=1e-4)
        assert outputs["action_probabilities"].shape == (N_ENVS, 5)
        kept = {name: outputs[f"next_{name}"] for name in kept}
        actions.append(expected)
        observation, _, start, _ = env.step(expected)
        ended += start.sum()
    assert ended > 5
    assert seen(actions) > 1


@pytest.mark.parametrize("export", RUNS)
@pytest.mark.parametrize(
    ("algorithm", "policy", "action_space", "observation_space"),
    [
        (RecurrentLAXA2C, "MlpLstmPolicy", spaces.Box(-1.0, 2.0, (2,), np.float32), VECTOR),
        (RecurrentRELAXA2C, "MultiInputLstmPolicy", spaces.MultiBinary(2), PARTS),
    ],
)
def test_memory_beside_other_actions_and_observations(
    export, algorithm, policy, action_space, observation_space, tmp_path
):
    model = make(algorithm, policy, action_space, observation_space)
    run = export(model, tmp_path / "agent")
    env = model.get_env()
    zeros = np.zeros((1, N_ENVS, model.policy.lstm_actor.hidden_size), np.float32)
    kept, state, start = (zeros, zeros), None, np.ones(N_ENVS, bool)
    observation = env.reset()
    for _ in range(12):
        expected, state = model.predict(observation, state=state, episode_start=start, deterministic=True)
        outputs = run(observation, hidden_state=kept[0], cell_state=kept[1], episode_start=start)
        np.testing.assert_allclose(outputs["action"], expected, rtol=1e-4, atol=1e-4)
        kept = (outputs["next_hidden_state"], outputs["next_cell_state"])
        observation, _, start, _ = env.step(expected)


def test_a_real_task_whose_episodes_need_memory(tmp_path):
    model = RecurrentRELAXA2C("MlpLstmPolicy", WithoutVelocities(gym.make("CartPole-v1")), device="cpu", seed=0)
    decided(model.learn(400))
    run = run_onnx(model, tmp_path / "agent")
    env = model.get_env()
    zeros = np.zeros((1, 1, 256), np.float32)
    kept, state, start = (zeros, zeros), None, np.ones(1, bool)
    observation, actions, ended = env.reset(), [], 0
    for _ in range(200):
        expected, state = model.predict(observation, state=state, episode_start=start, deterministic=True)
        outputs = run(observation, hidden_state=kept[0], cell_state=kept[1], episode_start=start)
        np.testing.assert_array_equal(outputs["action"], expected)
        kept = (outputs["next_hidden_state"], outputs["next_cell_state"])
        actions.append(expected)
        observation, _, start, _ = env.step(expected)
        ended += start.sum()
    assert ended >= 2
    assert seen(actions) == 2


class WithoutVelocities(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Box(-5.0, 5.0, (2,), np.float32)

    def observation(self, observation):
        return observation[[0, 2]]


def test_weights_that_nothing_asks_for_are_not_in_the_file(tmp_path):
    model = make(RecurrentRELAXA2C, "MlpLstmPolicy", spaces.Discrete(3))
    run_torchscript(model, tmp_path / "action")
    run_torchscript(model, tmp_path / "value", value=True)
    assert 1.8 < (tmp_path / "value").stat().st_size / (tmp_path / "action").stat().st_size < 2.2


@pytest.mark.parametrize("export", RUNS)
@pytest.mark.parametrize("space", ["discrete", "multidiscrete", "multibinary"])
def test_masks_and_memory_together(export, space, tmp_path):
    model = make(MaskableRecurrentRELAXA2C, "MlpLstmPolicy", ACTION_SPACES[space], policy_kwargs=LSTMS["one for each"])
    run = export(model, tmp_path / "agent", probabilities=True, value=True)
    env = model.get_env()
    zeros = np.zeros((2, N_ENVS, 16), np.float32)
    kept = {f"{whose}{kind}_state": zeros for whose in ("", "critic_") for kind in ("hidden", "cell")}
    state, start = None, np.ones(N_ENVS, bool)
    observation, actions, changed, ended = env.reset(), [], 0, 0
    for _ in range(30):
        masks = get_action_masks(env)
        unmasked, _ = model.policy.predict(observation, state=state, episode_start=start, deterministic=True)
        expected, state = model.predict(
            observation, state=state, episode_start=start, deterministic=True, action_masks=masks
        )
        outputs = run(observation, **kept, action_masks=masks, episode_start=start)
        np.testing.assert_array_equal(outputs["action"], expected)
        np.testing.assert_allclose(outputs["next_hidden_state"], state[0], atol=1e-5)
        np.testing.assert_allclose(outputs["next_cell_state"], state[1], atol=1e-5)
        np.testing.assert_array_less(outputs["action_probabilities"][~masks], 1e-12)
        # one for each variable
        np.testing.assert_allclose(outputs["action_probabilities"].sum(1), np.size(expected[0]), rtol=1e-5)
        kept = {name: outputs[f"next_{name}"] for name in kept}
        actions.append(expected)
        changed += (expected != unmasked).sum()
        observation, _, start, _ = env.step(expected)
        ended += start.sum()
    assert changed > 5  # what the masks forbade was not chosen anyway
    assert ended > 5
    assert seen(actions) > 1


class OwnMemory(RecurrentActorCriticPolicy):
    @staticmethod
    def _process_sequence(features, lstm_states, episode_starts, lstm):
        raise AssertionError


def test_a_memory_of_ones_own_is_refused():
    model = RecurrentRELAXA2C(OwnMemory, "CartPole-v1", device="cpu")
    with pytest.raises(TypeError, match=r"OwnMemory overrides _process_sequence\(\) .* cannot be exported"):
        Controller(model)


def test_the_policy_is_as_it_was_after_an_export(tmp_path):
    model = make(RecurrentRELAXA2C, "MlpLstmPolicy", spaces.Discrete(3))
    run_torchscript(model, tmp_path / "agent")
    assert "_process_sequence" not in vars(model.policy)
    model.learn(48)
