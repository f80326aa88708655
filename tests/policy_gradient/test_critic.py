"""V's fit: its optimizer, minibatches, the scale of returns; and the scale of advantages."""

import numpy as np
import pytest
import torch as th
from gymnasium import RewardWrapper
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_relax import RELAXA2C, MaskableRELAXA2C, RecurrentRELAXA2C
from sb3_relax.errors import ParametersDoNotFit, UsageError
from sb3_relax.export import to_a2c
from sb3_relax.policy_gradient.advantage_scale import AdvantageScale
from sb3_relax.policy_gradient.return_scale import ReturnScale
from tests.helpers import ACTION_SPACES, AllShared, TinyEnv


class Scaled(RewardWrapper):
    """Rewards a·r + c."""

    def __init__(self, scale, shift):
        super().__init__(TinyEnv(ACTION_SPACES["discrete"]))
        self.scale, self.shift = scale, shift

    def reward(self, reward):
        return self.scale * float(reward) + self.shift


ADAM = dict(use_rms_prop=False, policy_kwargs=dict(net_arch=[6]), n_steps=8, seed=0, device="cpu")


def build(env=None, policy="MlpPolicy", cls=RELAXA2C, **kwargs):
    return cls(policy, env or TinyEnv(ACTION_SPACES["discrete"]), **{**ADAM, **kwargs})


def head(model):
    return th.cat([p.detach().flatten() for p in model.policy.value_net.parameters()])


def test_the_scale_is_the_size_of_returns_around_v():
    scale = ReturnScale(build().policy, decay=0.5)
    assert scale.value == 1
    scale.observe(th.tensor([1.0, 3.0]), th.tensor([0.0, 4.0]))  # V is right on average
    assert scale.value == pytest.approx(1)
    scale.observe(th.tensor([5.0, 5.0]), th.tensor([-1.0, 1.0]))  # 25 with weight 2/3, and 1 with weight 1/3
    assert scale.value == pytest.approx((50 / 3 + 1 / 3) ** 0.5)
    for _ in range(100):
        scale.observe(th.zeros(4), th.zeros(4))
    assert 0 < scale.value < 1e-6


def test_a_step_of_the_last_layer_is_a_step_in_the_scale():
    model = build()
    layer = model.policy.value_net
    scale = ReturnScale(model.policy)
    scale.observe(th.tensor([90.0, 110.0]), th.tensor([100.0]))
    assert scale.value == pytest.approx(10)
    with th.no_grad():
        layer.weight.normal_()
        layer.bias.fill_(70.0)
    latent = th.randn(5, 6)
    before = layer(latent).detach()
    (layer(latent) ** 2).sum().backward()
    own = layer.weight.grad.clone()
    with scale.applied_to_last_layer():
        assert th.allclose(layer(latent), before / 10, atol=1e-4)
        assert th.allclose(layer.weight.grad, 10 * own, rtol=1e-4)
        with th.no_grad():
            layer.bias += 0.5
    assert th.allclose(layer(latent), before + 5, atol=1e-3)


def test_v_is_fitted_alike_whatever_the_size_of_rewards():
    """V of rewards a·r is a times V of r, as the policy is the same."""
    arguments = dict(critic_learning_rate=0.02, normalize_returns=True, n_critic_steps=5, learning_rate=0.0)
    values = []
    for scale in (1.0, 1000.0):
        model = build(Scaled(scale, 0.0), cv_learning_rate=0.0, **arguments)
        with th.no_grad():
            for parameter in model.policy.value_net.parameters():
                parameter.zero_()
        model.learn(400)
        values.append(model.policy.predict_values(th.eye(3)).detach() / scale)
    assert values[0].abs().max() > 0.1
    # the first advantages are alike up to rounding, which Adam enlarges
    assert th.allclose(values[0], values[1], atol=0.02)
    plain = build(Scaled(1000.0, 0.0), critic_learning_rate=0.02, n_critic_steps=5, learning_rate=0.0)
    plain.learn(400)
    assert (plain.policy.predict_values(th.eye(3)) / 1000 - values[0]).abs().max() > 0.1


def test_large_returns_are_reached_in_few_steps():
    def error(**kwargs):
        model = build(Scaled(0.0, 100.0), gamma=0.0, critic_learning_rate=0.05, n_critic_steps=5, **kwargs).learn(160)
        returns = model.rollout_buffer.returns
        return float(np.abs(model.rollout_buffer.values - returns).mean() / np.abs(returns).mean())

    assert error(normalize_returns=True) < 0.1
    assert error(normalize_returns=False) > 0.5


@pytest.mark.parametrize("size", [3, 4])
def test_minibatches_hold_every_step_once_before_any_comes_again(size):
    model = build(critic_batch_size=size)
    model.learn(8)
    parts = model.critic._parts(8, th.Generator().manual_seed(0))
    for _ in range(3):
        seen = [next(parts) for _ in range(8 // size)]
        assert all(len(part) == size for part in seen)
        assert len(set(th.cat(seen).tolist())) == 8 // size * size


def test_a_minibatch_has_its_own_observations_and_targets():
    model = build(critic_batch_size=3, n_critic_steps=4)
    batches, seen = [], []
    fit, loss = model.critic.fit, model.critic.loss
    model.critic.fit = lambda batch, *rest: (batches.append(batch), fit(batch, *rest))
    model.critic.loss = lambda values, returns: (seen.append((values, returns)), loss(values, returns))[1]
    model.critic.view.values_while_fitted = lambda observations, **context: (
        lambda steps: model.policy.predict_values(observations[steps]).flatten()
    )
    model.learn(16)
    assert th.equal(head(model), head(build(critic_batch_size=3, n_critic_steps=4).learn(16)))
    for values, returns in seen[1:4]:  # after the joint step
        assert len(values) == 3
        assert {*returns.tolist()} <= {*batches[0].returns.tolist()}


def test_a_minibatch_as_large_as_the_batch_is_the_batch():
    whole, large = (build(critic_batch_size=size, n_critic_steps=3).learn(40) for size in (None, 100))
    assert th.equal(head(whole), head(large))
    small = build(critic_batch_size=2, n_critic_steps=3).learn(40)
    assert not th.equal(head(whole), head(small))


class Batched(th.nn.Module):
    """A value head whose gradient autograd hands over transposed in memory."""

    def __init__(self, size):
        super().__init__()
        self.weight = th.nn.Parameter(th.randn(1, 5, size))
        self.last = th.nn.Linear(5, 1)

    def forward(self, latent):
        return self.last((latent.unsqueeze(0) @ self.weight.mT)[0].tanh())


class BatchedPolicy(ActorCriticPolicy):
    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.value_net = Batched(self.mlp_extractor.latent_dim_vf)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)


def test_one_kernel_for_all_weights_steps_each_by_its_own_gradient():
    fused, plain = (build(policy=BatchedPolicy, critic_learning_rate=0.1, n_critic_steps=3) for _ in range(2))
    assert all(group["fused"] for group in fused.critic.optimizer.param_groups)
    for group in plain.critic.optimizer.param_groups:
        group["fused"] = None
    for model in (fused, plain):
        model.set_random_seed(0)
        model.learn(24)
    assert th.allclose(fused.policy.value_net.weight, plain.policy.value_net.weight, atol=1e-5)


class Masked(TinyEnv):
    def action_masks(self):
        return [True, True, False]


def test_minibatches_of_a_masked_policy():
    env = Masked(ACTION_SPACES["discrete"])
    build(env, cls=MaskableRELAXA2C, critic_batch_size=3, n_critic_steps=3).learn(40)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(UsageError, match="set critic_learning_rate"):
        build(normalize_returns=True)
    with pytest.raises(UsageError, match="critic_batch_size must be a whole number"):
        build(critic_batch_size=0)
    with pytest.raises(UsageError, match="steps of a sequence stay together"):
        build(policy="MlpLstmPolicy", cls=RecurrentRELAXA2C, critic_batch_size=3)
    with pytest.raises(UsageError, match=r"value_net is a torch\.nn\.Linear"):
        build(policy=AllShared, critic_learning_rate=1e-3, normalize_returns=True)
    with pytest.raises(UsageError, match=r'normalize_advantage must be False, True .* or "running"'):
        build(normalize_advantage="batch")


def test_the_scales_are_saved_and_training_goes_on_as_it_would(tmp_path):
    arguments = dict(critic_learning_rate=0.01, normalize_returns=True, normalize_advantage="running")
    model = build(**arguments).learn(80)
    model.save(tmp_path / "agent")
    other = RELAXA2C.load(tmp_path / "agent", device="cpu")
    for ours, theirs in ((model.critic, other.critic), (model.advantage_scale, other.advantage_scale)):
        assert ours.state_dict().keys() == theirs.state_dict().keys() != set()
        assert all(th.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert model.critic.scale.value != 1
    assert all(isinstance(value, th.Tensor) for value in model.get_parameters()["critic"].values())
    observation = np.ones(3, np.float32)
    assert (
        to_a2c(model).predict(observation, deterministic=True)[0] == model.predict(observation, deterministic=True)[0]
    )
    assert to_a2c(model).normalize_advantage is False


def test_advantages_are_divided_by_what_earlier_batches_had():
    scale = AdvantageScale(decay=0.5)
    assert scale.value == 1
    scale.observe(th.tensor([3.0, -3.0]))
    assert scale.value == pytest.approx(3)
    scale.observe(th.tensor([0.0, 0.0]))
    assert scale.value == pytest.approx(3**0.5)  # 9 with weight 1/3

    model = build(normalize_advantage="running")
    used = []
    gradient = model.control_variate.gradient

    def spy(output, signal, generator):
        used.append((signal, model.advantage_scale.value))
        return gradient(output, signal, generator)

    model.control_variate.gradient = spy
    model.learn(24)
    (first, one), (_, two), (_, three) = used
    assert one == 1  # nothing of the first batch is in its own scale
    assert two == pytest.approx(first.square().mean().item() ** 0.5, rel=1e-5)
    assert three != two


@pytest.mark.parametrize(
    "argument", [dict(normalize_returns=True, critic_learning_rate=1e-3), dict(normalize_advantage="running")]
)
def test_parameters_with_another_scale_are_refused(argument):
    """Of returns or of advantages."""
    rate = {name: value for name, value in argument.items() if name == "critic_learning_rate"}
    with_it, without = (RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu", **each) for each in (argument, rate))
    for model, other in ((with_it, without), (without, with_it)):
        with pytest.raises(ParametersDoNotFit, match="or the other way round: give both the same"):
            model.set_parameters(other.get_parameters())
