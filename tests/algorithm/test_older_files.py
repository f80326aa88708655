"""Agents of version 0.1 load, give the gradients that they gave there, and learn on as they did there.

``tests/old_files`` has agents that version 0.1 trained for 60 steps with seed 3, and in ``numbers.npz`` what that
version then gave: the gradient on the batch below after ``load()``, and the policy's weights after ``load(seed=7)`` and
40 further steps.
"""

import copy
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_relax import LAXA2C, RELAXA2C, MaskableRELAXA2C, RecurrentLAXA2C
from sb3_relax.control_variates import Guarded
from sb3_relax.errors import UsageError
from tests.helpers import in_full

FOLDER = Path(__file__).resolve().parents[1] / "old_files"
NUMBERS = np.load(FOLDER / "numbers.npz")
SHIPPED = sorted((Path(__file__).resolve().parents[2] / "agents").glob("*/*/*.zip"))


class NineSteps(gym.Env):
    """As the agents were trained in: observations without a memory, rewards that know the action, a time limit."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def _observe(self):
        self.seen = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return self.seen

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        reward = float(np.sum(np.asarray(action, dtype=np.float64)) * self.seen[0] + self.seen[1])
        return self._observe(), reward, False, self.t >= 9, {}


def box():
    return NineSteps(spaces.Box(-1, 1, (2,), np.float32))


def bits():
    return NineSteps(spaces.MultiBinary(3))


def cart_pole():
    return gym.make("CartPole-v1")


#: name of the file → class and environment
FILES = {
    "laxa2c_full": (LAXA2C, box),
    "laxa2c_state_full": (LAXA2C, box),
    "relaxa2c": (RELAXA2C, cart_pole),
    "relaxa2c_state": (RELAXA2C, cart_pole),
    "relaxa2c_exact": (RELAXA2C, bits),
    "relaxa2c_episodes": (RELAXA2C, cart_pole),
    "relaxa2c_mask": (MaskableRELAXA2C, lambda: InvalidActionEnvDiscrete(dim=6, n_invalid_actions=2)),
    "laxa2c_recurrent": (RecurrentLAXA2C, box),
}
#: the masks of that environment come from a stream that no seed of an agent reaches
CONTINUED = [name for name in FILES if name != "relaxa2c_mask"]
STATE = ("relaxa2c_state", "laxa2c_state_full")
SMALL = dict(net_arch=dict(pi=[6], vf=[5], cv=[4, 3]))


def load(name, **kwargs):
    return FILES[name][0].load(FOLDER / f"{name}.zip", device="cpu", **kwargs)


def batch(model, n=5):
    rng = np.random.default_rng(0)
    observations = rng.uniform(-0.1, 0.1, (n, *model.observation_space.shape)).astype(np.float32)
    if isinstance(model.observation_space, spaces.Discrete):
        observations = rng.integers(model.observation_space.n, size=n)
    if isinstance(model.action_space, spaces.Box):
        actions = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    elif isinstance(model.action_space, spaces.Discrete):
        actions = rng.integers(model.action_space.n, size=n)
    else:
        actions = rng.integers(2, size=(n, *model.action_space.shape))
    return th.as_tensor(observations), th.as_tensor(actions), th.as_tensor(rng.normal(size=n), dtype=th.float32)


def gradient(model):
    """Of the fixed batch, at every weight of the policy, as one vector."""
    context = {}
    if isinstance(model, RecurrentLAXA2C):
        zeros = th.zeros(1, 1, 4)
        states = RNNStates((zeros, zeros), (zeros, zeros))
        context = dict(lstm_states=states, episode_starts=th.tensor([1.0, 0, 0, 0, 0]))
    parts = model.policy_gradient(*batch(model), **context).values()
    return th.cat([part.flatten() for part in parts]).numpy()


def weights(model):
    return th.cat([p.detach().flatten() for p in model.policy.parameters()]).numpy()


def phi(model):
    """ĉ's weights and scale as they are now."""
    return {name: value.clone() for name, value in in_full(model).network.state_dict().items()}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(th.equal(value, theirs[name]) for name, value in ours.items())


def test_every_file_is_looked_at():
    assert {path.stem for path in FOLDER.glob("*.zip")} == {*FILES}
    assert {*NUMBERS} == {f"{name}/gradient" for name in FILES} | {f"{name}/continued" for name in CONTINUED}


@pytest.mark.parametrize("name", FILES)
def test_the_gradient_is_what_it_was(name):
    expected = NUMBERS[f"{name}/gradient"]
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(gradient(load(name)), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    # ĉ is part of it wherever its guard had come to trust it
    model = load(name)
    with th.no_grad():
        for parameter in in_full(model).network.output_layer.parameters():
            parameter.zero_()
    trusted = name != "relaxa2c_exact"
    assert (np.abs(gradient(model) - expected).max() > 1e-3) == trusted


@pytest.mark.parametrize("name", CONTINUED)
def test_learning_goes_on_as_it_did(name):
    model = load(name, env=FILES[name][1](), seed=7)
    before = weights(model)
    model.learn(40, reset_num_timesteps=False)
    assert np.abs(weights(model) - before).max() > 1e-4  # ten times the tolerance
    np.testing.assert_allclose(weights(model), NUMBERS[f"{name}/continued"], rtol=0, atol=1e-5)


def test_what_was_learned_without_a_gradient_is_read():
    """The advantages' scale, the evidence for the guard and, with whole episodes, the number of steps."""
    for name in ("relaxa2c", "relaxa2c_episodes"):
        model = load(name)
        saved = load_from_zip_file(FOLDER / f"{name}.zip", device="cpu")[1]["control_variate"]
        statistics = saved["statistics._extra_state"]
        assert statistics["square"] > 0
        for of_guard in ("cross", "square", "size"):
            assert getattr(model.control_variate, of_guard).item() == pytest.approx(statistics[of_guard])
        network = in_full(model).network
        assert network.scale.item() == pytest.approx(statistics["scale"])
        assert network.seen_batches == statistics["seen_batches"] > 0
    assert model.expected_steps.average.item() == pytest.approx(statistics["steps"])
    assert statistics["steps"] > 0


@pytest.mark.parametrize("name", [name for name in FILES if name != "laxa2c_recurrent"])
def test_saved_again_it_is_the_same_agent(name, tmp_path):
    model = load(name)
    model.save(tmp_path / "agent")
    again = FILES[name][0].load(tmp_path / "agent", device="cpu")
    assert np.array_equal(gradient(again), gradient(model))
    assert same(again.control_variate.state_dict(), model.control_variate.state_dict())


@pytest.mark.parametrize("name", ["relaxa2c", "laxa2c_full", "relaxa2c_episodes", *STATE])
def test_the_guard_is_switched_at_load_and_back(name, tmp_path):
    """φ and its optimizer are kept; a guard that was not there before has no evidence."""
    model = load(name)
    guarded = isinstance(model.control_variate, Guarded)
    assert guarded == (not name.endswith("full"))
    cls, env = FILES[name]
    other = load(name, cv_guard=not guarded, env=env())
    other.save(tmp_path / "other")
    back = cls.load(tmp_path / "other", cv_guard=guarded, env=env(), device="cpu")
    for each, has_guard in ((other, not guarded), (back, guarded)):
        assert each.cv_guard == has_guard == isinstance(each.control_variate, Guarded)
        assert same(phi(each), phi(model))
        ours, theirs = each.cv_optimizer.state_dict()["state"], model.cv_optimizer.state_dict()["state"]
        assert len(ours) > 0
        assert ours.keys() == theirs.keys()
        assert all(same(state, theirs[key]) for key, state in ours.items())
        assert not has_guard or each.control_variate.share == 0
        each.learn(40, reset_num_timesteps=False)
        assert phi(each)["seen_batches"] > phi(model)["seen_batches"]


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize(("name", "n_episodes"), [("relaxa2c", 2), ("relaxa2c_episodes", None)])
def test_whole_episodes_are_switched_at_load(name, n_episodes, older, tmp_path):
    path = FOLDER / f"{name}.zip"
    if not older:
        load(name).save(tmp_path / "newer.zip")
        path = tmp_path / "newer.zip"
    model = RELAXA2C.load(path, n_episodes=n_episodes, env=cart_pole(), device="cpu")
    assert same(phi(model), phi(load(name)))
    model.learn(40, reset_num_timesteps=False)
    assert ("expected_steps" in model.get_parameters()) == (n_episodes is not None)
    assert n_episodes is None or model.expected_steps.average > 0


@pytest.mark.parametrize("given_as", ["a path", "a dict"])
@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("name", ["relaxa2c", "relaxa2c_state", "relaxa2c_episodes", "laxa2c_full"])
def test_set_parameters(name, guarded, given_as):
    loaded = load(name)
    cls, env = FILES[name]
    kept = {key: getattr(loaded, key) for key in ("cv_action_dependent", "n_episodes")}
    model = cls("MlpPolicy", env(), seed=1, device="cpu", policy_kwargs=SMALL, cv_guard=guarded, **kept)
    assert not np.array_equal(weights(model), weights(loaded))
    given = load_from_zip_file(FOLDER / f"{name}.zip", device="cpu")[1]
    keys = {key: [*state] for key, state in given.items()}
    model.set_parameters(str(FOLDER / f"{name}.zip") if given_as == "a path" else given)
    assert {key: [*state] for key, state in given.items()} == keys  # left as it was
    assert np.array_equal(weights(model), weights(loaded))
    assert same(phi(model), phi(loaded))
    assert th.equal(model.expected_steps.average, loaded.expected_steps.average)
    if guarded and isinstance(loaded.control_variate, Guarded):
        assert model.control_variate.share == loaded.control_variate.share
        model.noise_generator.set_state(loaded.noise_generator.get_state())
        assert np.array_equal(gradient(model), gradient(loaded))
    model.learn(10)


@pytest.mark.parametrize("older", [True, False])
def test_weights_that_read_the_actions_are_refused_where_there_is_only_the_state(older, tmp_path):
    path = FOLDER / "relaxa2c.zip"
    if not older:
        load("relaxa2c").save(tmp_path / "newer.zip")
        path = tmp_path / "newer.zip"
    model = RELAXA2C("MlpPolicy", cart_pole(), seed=1, device="cpu", policy_kwargs=SMALL, cv_action_dependent=False)
    before, phi_before = weights(model), phi(model)
    for given in (str(path), load_from_zip_file(path, device="cpu")[1]):
        with pytest.raises(UsageError, match="set cv_action_dependent=True"):
            model.set_parameters(given)
    assert np.array_equal(weights(model), before)
    assert same(phi(model), phi_before)
    with pytest.raises(UsageError, match="holds an agent with cv_action_dependent=True"):
        RELAXA2C.load(path, device="cpu", cv_action_dependent=False)


def test_a_state_baseline_stays_one():
    with pytest.raises(UsageError, match="holds an agent with cv_action_dependent=False"):
        load("relaxa2c_state", cv_action_dependent=True)
    assert load("relaxa2c_state").cv_action_dependent is False


def test_there_are_shipped_agents():
    assert len(SHIPPED) >= 4


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_agents_act(path):
    model = (LAXA2C if path.parts[-3] == "laxa2c" else RELAXA2C).load(path, device="cpu")
    model.observation_space.seed(0)
    observations = np.stack([model.observation_space.sample() for _ in range(64)])
    actions, _ = model.predict(observations, deterministic=True)
    assert all(model.action_space.contains(action) for action in actions)
    assert len(np.unique(actions, axis=0)) > 1
    assert in_full(model).network.seen_batches > 0


class MaskedBits(NineSteps):
    def action_masks(self):
        return np.ones(6, bool)


def test_the_default_of_a_target_that_has_no_effect(tmp_path):
    """Files once held 0.005 whatever the update rule; a target of an update rule without one is refused."""
    for rule, kept in (("optimizer", None), ("kfac", 0.005)):
        model = RELAXA2C("MlpPolicy", "CartPole-v1", update_rule=rule)
        model.target_kl = 0.005
        model.save(tmp_path / rule)
        loaded = RELAXA2C.load(tmp_path / rule, env=gym.make("CartPole-v1"))
        assert loaded.hyperparameters.of(loaded).target_kl == kept
        loaded.learn(10).save(tmp_path / "again")
        RELAXA2C.load(tmp_path / "again")


def test_what_read_both_values_of_a_masked_bit_reads_the_bit():
    """ĉ is the same function of the action, its gradient is what it was, and it learns on."""
    model, old = (MaskableRELAXA2C("MlpPolicy", MaskedBits(spaces.MultiBinary(3)), device="cpu") for _ in range(2))
    model.learn(50)
    parameters = copy.deepcopy(model.get_parameters())
    state, name = parameters["control_variate"], "variate.network.action_layer.weight"
    both = th.randn(len(state[name]), 6)
    of_adam = parameters["cv_optimizer"]["state"]
    index = [key for key, _ in model.control_variate.named_parameters()].index(name)
    assert of_adam[index]["exp_avg"].shape == state[name].shape
    state[name], of_adam[index]["exp_avg"], of_adam[index]["exp_avg_sq"] = both, both, both.square()
    old.set_parameters(parameters)
    network, features, bits = old.control_variate.variate.network, th.randn(5, 64), th.rand(5, 3)
    wide = copy.deepcopy(network)
    wide.action_layer = th.nn.Linear(6, len(both), bias=False)
    wide.load_state_dict({key.removeprefix("variate.network."): state[key] for key in state if "network" in key})
    network.output_layer.weight.data.normal_()
    wide.output_layer.weight.data.copy_(network.output_layer.weight)
    features = features[:, : network.state_encoder[0].in_features]
    with th.no_grad():
        ours, theirs = network(features, bits), wide(features, th.stack([1 - bits, bits], dim=-1).flatten(1))
    assert ours.abs().max() > 0.01
    assert th.allclose(ours, theirs, atol=1e-5)
    old.learn(50)
    assert all(p.isfinite().all() for p in old.control_variate.parameters())
