"""Gradients that are not finite, of the policy and of V's own weights."""

import pytest
import torch as th
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_relax import RELAXA2C
from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.clipping import clip


class RootAtZero(FlattenExtractor):
    """The square root of 0 has no finite derivative, and is itself finite."""

    def __init__(self, space):
        super().__init__(space)
        self.scale = th.nn.Parameter(th.zeros(()))

    def forward(self, observations):
        return super().forward(observations) + self.scale.square().sqrt()


@pytest.mark.parametrize("own", [{}, {"critic_learning_rate": 1e-3}, {"update_rule": "kfac"}])
def test_no_weight_with_such_a_gradient_is_changed(own):
    kwargs = {"features_extractor_class": RootAtZero, "share_features_extractor": False}
    model = RELAXA2C("MlpPolicy", "CartPole-v1", seed=0, policy_kwargs=kwargs, **own)
    with pytest.raises(UsageError, match=r"gradient of the policy's loss must be finite, but it is not at") as error:
        model.learn(5)
    assert "features_extractor.scale" in str(error.value)
    assert "action_net" not in str(error.value)
    assert all(weight.isfinite().all() for weight in model.policy.parameters())


def test_weights_that_were_spoilt_from_outside_are_named():
    model = RELAXA2C("MlpPolicy", "CartPole-v1", seed=0)

    def spoil(locals_, globals_):
        with th.no_grad():
            model.policy.value_net.weight.fill_(float("nan"))
        return True

    with pytest.raises(UsageError, match=r"value_net.weight"):
        model.learn(5, callback=spoil)


@pytest.mark.parametrize("share", [0.01, 1 - 1e-7, 1.0, 1 + 1e-7, 3.0])
def test_gradients_are_clipped_as_torch_clips_them_to_the_last_bit(share):
    th.manual_seed(0)
    policies = [th.nn.Linear(3, 4), th.nn.Linear(3, 4)]
    for weight, other in zip(*(policy.parameters() for policy in policies), strict=True):
        weight.grad = th.randn_like(weight)
        other.grad = weight.grad.clone()
    most = share * float(th.cat([weight.grad.flatten() for weight in policies[0].parameters()]).norm())
    norm = clip(policies[0], list(policies[0].parameters()), most, lambda: False)
    assert norm == th.nn.utils.clip_grad_norm_(policies[1].parameters(), most).item()
    assert all(th.equal(a.grad, b.grad) for a, b in zip(*(policy.parameters() for policy in policies), strict=True))


def test_without_any_gradient_the_norm_is_0():
    policy = th.nn.Linear(3, 4)
    assert clip(policy, list(policy.parameters()), 0.5, lambda: False) == 0
