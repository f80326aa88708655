"""A rollout is SB3's to the last bit, for buffers and callbacks, and whoever listens to the policy hears it act."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from torch import nn
from torch.distributions import Categorical, Normal

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.policy_gradient.quick_forward import quick_passes
from tests.helpers import TinyEnv

IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)


def limited():
    return TimeLimit(TinyEnv(spaces.Discrete(3), length=50), 6)


def pixels():
    return TinyEnv(spaces.Discrete(3), observation_space=IMAGE)


def several():
    parts = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (3,), np.float32), "b": spaces.Discrete(4)})
    return TinyEnv(spaces.MultiDiscrete([2, 3]), observation_space=parts)


CASES = {
    "discrete": (RELAXA2C, "CartPole-v1", {}),
    "box": (LAXA2C, "Pendulum-v1", {}),
    "time limits": (RELAXA2C, limited, {}),
    "gSDE": (LAXA2C, "Pendulum-v1", dict(use_sde=True, sde_sample_freq=4)),
    "squashed": (LAXA2C, "Pendulum-v1", dict(use_sde=True, policy_kwargs=dict(squash_output=True))),
    "multibinary, no hidden layers": (
        RELAXA2C,
        lambda: TinyEnv(spaces.MultiBinary(5)),
        dict(policy_kwargs=dict(net_arch=[])),
    ),
    "unshared extractors, ReLU": (
        RELAXA2C,
        "CartPole-v1",
        dict(policy_kwargs=dict(share_features_extractor=False, activation_fn=nn.ReLU)),
    ),
    "pixels": (RELAXA2C, pixels, dict(policy="CnnPolicy")),
    "Dict observations": (RELAXA2C, several, dict(policy="MultiInputPolicy")),
}


class Keeps(BaseCallback):
    """What a callback sees in every step, and what the buffer holds in the end."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def note(self):
        self.seen.append({name: kept(value) for name, value in self.locals.items()})

    def _on_step(self):
        self.note()
        return True

    def _on_rollout_end(self):
        self.note()
        self.buffer = {name: kept(value) for name, value in vars(self.model.rollout_buffer).items()}


def kept(value):
    if isinstance(value, dict):
        return {name: kept(part) for name, part in value.items()}
    return value.copy() if isinstance(value, np.ndarray) else value


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, th.Tensor):
        return th.equal(a, b)
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def collected(cls, env, policy="MlpPolicy", **kwargs):
    model = cls(policy, make_vec_env(env, 3, seed=0), n_steps=20, seed=1, device="cpu", **kwargs)
    keeps = Keeps()
    model.learn(60, keeps)
    return keeps


@pytest.mark.parametrize("case", CASES)
def test_rollout_and_locals_are_sb3s(case):
    algorithm, env, kwargs = CASES[case]
    # A2C writes its optimizer into the policy_kwargs it is given
    theirs, ours = (
        collected(cls, env, **{name: kept(value) for name, value in kwargs.items()}) for cls in (A2C, algorithm)
    )
    # these belong to each model
    own = {"self", "env", "callback", "rollout_buffer", "tb_log_name"}
    assert len(theirs.seen) == len(ours.seen) == 21
    for a, b in zip(theirs.seen, ours.seen, strict=True):
        assert a.keys() <= b.keys()
        for name in a.keys() - own:
            if name == "infos":  # with the times at which episodes ended
                assert [info.keys() for info in a[name]] == [info.keys() for info in b[name]]
            else:
                assert equal(a[name], b[name]), name
    for name in (
        "observations",
        "actions",
        "rewards",
        "episode_starts",
        "values",
        "log_probs",
        "advantages",
        "returns",
    ):
        assert equal(theirs.buffer[name], ours.buffer[name]), name


@pytest.mark.parametrize("case", CASES)
def test_quick_passes_are_the_policys(case):
    algorithm, env, kwargs = CASES[case]
    kwargs = dict(policy="MlpPolicy", **kwargs) if "policy" not in kwargs else kwargs
    model = algorithm(env=make_vec_env(env, 3, seed=0), seed=0, **kwargs)
    forward, predict_values, act = quick_passes(model.policy)
    assert forward is not model.policy
    observations, _ = model.policy.obs_to_tensor(model.env.reset())
    results = []
    for passes in ((model.policy, model.policy.predict_values), (forward, predict_values)):
        th.manual_seed(0)
        with th.no_grad():
            # the second time with the generator as the first has left it
            results.append([*passes[0](observations), *passes[0](observations), passes[1](observations)])
            results[-1].append(model.policy.action_dist.sample())
    assert all(th.equal(a, b) for a, b in zip(*results, strict=True))
    th.manual_seed(0)
    with th.no_grad():
        assert th.equal(act(observations), results[0][0])


class Counting(ActorCriticPolicy):
    """A policy with a forward() of its own."""

    calls = 0

    def forward(self, obs, deterministic=False):
        self.calls += 1
        return super().forward(obs, deterministic)


def test_a_policy_with_a_forward_of_its_own_is_asked_for_actions():
    model = RELAXA2C(Counting, "CartPole-v1", n_steps=5).learn(5)
    assert model.policy.calls == 5


@pytest.mark.parametrize("which", ["policy", "extractor", "layer", "value", "compiled", "replaced", "every module"])
def test_who_listens_to_the_policy_hears_it_act(which):
    model = RELAXA2C("MlpPolicy", "CartPole-v1", n_steps=5)
    policy, heard = model.policy, []
    modules = {"policy": policy, "extractor": policy.mlp_extractor, "layer": policy.mlp_extractor.policy_net[1]}
    modules["value"] = policy.value_net

    def acts(module, *_):
        if not th.is_grad_enabled():
            heard.append(module)

    handle = None
    if which == "compiled":
        call = policy._call_impl
        policy._compiled_call_impl = lambda *args, **kwargs: (acts(policy), call(*args, **kwargs))[1]
    elif which == "replaced":
        forward = policy.forward
        policy.forward = lambda *args, **kwargs: (acts(policy), forward(*args, **kwargs))[1]
    elif which == "every module":
        handle = nn.modules.module.register_module_forward_hook(
            lambda module, *_: acts(module) if module is modules["layer"] else None
        )
    else:
        modules[which].register_forward_pre_hook(acts)
    try:
        model.learn(5)
    finally:
        if handle is not None:
            handle.remove()
    # the state after the last step is asked for its value besides
    assert len(heard) == (6 if which == "value" else 5)


class Doubled(nn.Sequential):
    """Does more than its layers."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


NETWORKS = {
    "of its own kind": lambda network: Doubled(*network),
    "spread over devices": nn.DataParallel,
    "compiled": lambda network: th.compile(network, backend="eager"),
}


@pytest.mark.parametrize("which", ["policy_net", "value_net"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_put_in_the_place_of_sb3s_is_called(network, which):
    policy = RELAXA2C("MlpPolicy", "CartPole-v1").policy
    setattr(policy.mlp_extractor, which, NETWORKS[network](getattr(policy.mlp_extractor, which)))
    assert quick_passes(policy).forward is policy


@pytest.mark.parametrize("name", ["get_actions", "sample", "log_prob"])
@pytest.mark.parametrize("where", ["object", "class"])
def test_a_replaced_method_of_the_distribution_is_called(name, where, monkeypatch):
    policy = RELAXA2C("MlpPolicy", "CartPole-v1").policy
    replaced = policy.action_dist if where == "object" else type(policy.action_dist)
    method = getattr(replaced, name)
    monkeypatch.setattr(replaced, name, lambda *args, **kwargs: method(*args, **kwargs))
    assert quick_passes(policy).forward is policy


@pytest.mark.parametrize(
    ("kind", "name"), [(Categorical, "sample"), (Normal, "log_prob"), (BaseModel, "extract_features")]
)
def test_a_replaced_method_of_a_class_beneath_is_called(kind, name, monkeypatch):
    policy = RELAXA2C("MlpPolicy", "CartPole-v1").policy
    assert quick_passes(policy).forward is not policy
    method = getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda *args, **kwargs: method(*args, **kwargs))
    assert quick_passes(policy).forward is policy


@pytest.mark.parametrize("name", ["forward_actor", "forward_critic"])
def test_a_replaced_method_of_the_extractor_is_called(name):
    policy = RELAXA2C("MlpPolicy", "CartPole-v1").policy
    setattr(policy.mlp_extractor, name, getattr(policy.mlp_extractor, name))
    assert quick_passes(policy).forward is policy


def test_a_layer_with_a_call_of_its_own_is_called():
    class Counted(nn.Tanh):
        def __call__(self, inputs):
            return super().__call__(inputs)

    policy = RELAXA2C("MlpPolicy", "CartPole-v1").policy
    policy.mlp_extractor.policy_net[1] = Counted()
    assert quick_passes(policy).forward is policy
