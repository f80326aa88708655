"""With ĉ = 0 and SB3's settings, RELAXA2C and LAXA2C are SB3's A2C, up to rounding."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_relax import LAXA2C, RELAXA2C
from tests.helpers import TinyEnv

UPDATES = 20


def limited():
    return TimeLimit(TinyEnv(spaces.Discrete(3), length=50), 6)


class Dictionary(TinyEnv):
    def __init__(self):
        space = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (3,), np.float32), "b": spaces.Discrete(4)})
        super().__init__(spaces.Discrete(3), observation_space=space)


CASES = {
    "discrete": (RELAXA2C, "CartPole-v1", {}),
    "discrete exact": (RELAXA2C, "CartPole-v1", dict(ours=dict(correction="exact"))),
    "discrete independent": (RELAXA2C, "CartPole-v1", dict(ours=dict(correction="relaxed"))),
    "all the rest": (
        RELAXA2C,
        "CartPole-v1",
        dict(normalize_advantage=True, ent_coef=0.01, n_steps=32, gae_lambda=0.9, use_rms_prop=False),
    ),
    "box": (LAXA2C, "Pendulum-v1", {}),
    "gSDE": (LAXA2C, "Pendulum-v1", dict(use_sde=True, sde_sample_freq=4, ent_coef=0.01)),
    "gSDE squashed": (LAXA2C, "Pendulum-v1", dict(use_sde=True, policy_kwargs=dict(squash_output=True))),
    "multidiscrete": (RELAXA2C, lambda: TinyEnv(spaces.MultiDiscrete([2, 4, 3])), {}),
    "time limits, normalised by VecNormalize": (RELAXA2C, limited, dict(vec_normalize=True, gae_lambda=0.9)),
    "Dict observations": (RELAXA2C, Dictionary, dict(policy="MultiInputPolicy")),
    "unshared extractors": (RELAXA2C, "CartPole-v1", dict(policy_kwargs=dict(share_features_extractor=False))),
    "a schedule of learning rates": (LAXA2C, "Pendulum-v1", dict(learning_rate=LinearSchedule(1e-3, 1e-5, 1.0))),
    "multibinary": (RELAXA2C, lambda: TinyEnv(spaces.MultiBinary(5)), dict(ent_coef=0.02)),
}


def make(algorithm, env, kwargs):
    kwargs = dict(policy="MlpPolicy", **kwargs) if "policy" not in kwargs else dict(kwargs)
    env = make_vec_env(env, 4, seed=0)
    if kwargs.pop("vec_normalize", False):
        env = VecNormalize(env)
    return algorithm(env=env, seed=3, device="cpu", **kwargs)


@pytest.mark.parametrize("case", CASES)
def test_same_start_and_same_weights(case):
    algorithm, env, kwargs = CASES[case]
    kwargs = dict(kwargs)
    ours = dict(kwargs.pop("ours", {}), cv_learning_rate=0.0)
    n_steps = kwargs.get("n_steps", 5)
    runs = []
    for cls, more in ((A2C, {}), (algorithm, ours)):
        # A2C writes its optimizer into the policy_kwargs it is given
        model = make(cls, env, {**{k: dict(v) if isinstance(v, dict) else v for k, v in kwargs.items()}, **more})
        start = [p.detach().clone() for p in model.policy.parameters()]
        actions = []
        model.learn(
            UPDATES * n_steps * 4, callback=lambda now, _, log=actions: log.append(now["actions"].copy()) or True
        )
        runs.append((start, np.array(actions), model))
    (start_a, actions_a, reference), (start_b, actions_b, model) = runs
    assert all(th.equal(a, b) for a, b in zip(start_a, start_b, strict=True))
    # before the first update rounding cannot have entered
    assert np.array_equal(actions_a[:n_steps], actions_b[:n_steps])
    for (name, a), b in zip(reference.policy.named_parameters(), model.policy.parameters(), strict=True):
        assert th.allclose(a, b, atol=2e-6, rtol=2e-5), name
    assert model._n_updates == reference._n_updates == UPDATES


def test_a_control_variate_that_learns_does_change_the_weights():
    """Teeth: the comparison above can fail."""
    reference = make(A2C, "CartPole-v1", {}).learn(UPDATES * 5 * 4)
    model = make(RELAXA2C, "CartPole-v1", dict(cv_learning_rate=0.01, cv_guard=False)).learn(UPDATES * 5 * 4)
    pairs = zip(reference.policy.parameters(), model.policy.parameters(), strict=True)
    assert any(not th.allclose(a, b, atol=2e-6, rtol=2e-5) for a, b in pairs)


def test_arguments_are_those_of_a2c_in_its_order():
    import inspect

    theirs = list(inspect.signature(A2C.__init__).parameters.values())
    for algorithm in (LAXA2C, RELAXA2C):
        ours = list(inspect.signature(algorithm.__init__).parameters.values())
        for a, b in zip(theirs, ours, strict=False):
            assert (a.name, a.default) == (b.name, b.default)
        assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in ours[len(theirs) :])
