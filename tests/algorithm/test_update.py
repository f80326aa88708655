"""What one update is made of, in float64: what φ descends, what V descends, and what reaches the policy."""

import contextlib
import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from torch.nn import functional as F

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.policy_gradient import Batch
from tests.estimators import twins
from tests.helpers import ACTION_SPACES, DoubleExtractor, TinyEnv, float64_model, in_full

N = 6
MODELS = {
    "discrete": (RELAXA2C, "discrete", {}),
    "independent": (RELAXA2C, "discrete", dict(correction="relaxed", n_relaxed=2)),
    "multidiscrete": (RELAXA2C, "multidiscrete", {}),
    "exact": (RELAXA2C, "multibinary", dict(correction="exact")),
    "box": (LAXA2C, "box", {}),
}


class Weighted(DoubleExtractor):
    """An extractor with weights of its own, which ĉ reads and must not train."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.layer = th.nn.Linear(self.features_dim, self.features_dim)

    def forward(self, observations):
        return th.tanh(self.layer(super().forward(observations)))


def build(case, **kwargs):
    algorithm, space, more = MODELS[case]
    extractor = dict(policy_kwargs=dict(features_extractor_class=Weighted))
    model = float64_model(algorithm, TinyEnv(ACTION_SPACES[space]), **more, **extractor, **kwargs)
    # as after some updates: a scale, and a share that is neither 0 nor 1
    guard = model.control_variate
    in_full(model).network.scale.fill_(2.0)
    guard.cross.fill_(-0.4)
    guard.square.fill_(1.0)
    return model


def batch(model):
    """Observations, actions as the buffer holds them, advantages."""
    actions = np.array([model.action_space.sample() for _ in range(N)])
    return th.randn(N, 3), th.as_tensor(actions), th.randn(N, dtype=th.float64)


def estimated(model, data, noise):
    """A pass of the policy and the estimate as it is applied, ``full`` being that with ĉ in full."""
    model.noise_generator.set_state(noise)
    output = model.view.evaluate(*data[:2])
    return output, model.control_variate.gradient(output, data[2], model.noise_generator)


def objective(model, data, noise):
    """What Eq 6 says φ should make small, from ĝ as a number."""
    estimate = estimated(model, data, noise)[1].full
    if model.cv_objective == "distribution":
        return estimate.grad.square().sum().item() / N
    weights = [p for p in model.policy.parameters() if p.requires_grad]
    total = th.autograd.grad(estimate.latent.theta, weights, estimate.grad / N, allow_unused=True)
    return sum(g.square().sum().item() for g in total if g is not None)


def backward(model, data, noise):
    """The gradients one update leaves, and those the policy should have. φ's rate is still 0: it does not move."""
    output, estimate = estimated(model, data, noise)
    loss = 0.5 * output.values.square().mean()
    full = estimate.full
    grad = full.score_term + 0.4 * (full.grad - full.score_term)
    weights = list(model.policy.parameters())
    expected = th.autograd.grad(
        [loss, estimate.latent.theta], weights, [th.ones_like(loss), -grad / N], retain_graph=True, allow_unused=True
    )
    for parameter in weights:
        parameter.grad = None
    model.control_variate.fit(output, data[2], estimate, model.noise_generator)
    assert all(parameter.grad is None for parameter in weights)
    model.update_rule.backward(estimate, loss, N, max_grad_norm=1e9)
    return [p.grad for p in weights], expected


def difference_quotients(model, data, noise, step=1e-6):
    """Per parameter of φ, its first three entries."""
    for parameter in model.control_variate.parameters():
        flat = parameter.data.view(-1)
        for i in range(min(3, len(flat))):
            before = flat[i].item()
            flat[i] = before + step
            up = objective(model, data, noise)
            flat[i] = before - step
            down = objective(model, data, noise)
            flat[i] = before
            yield (up - down) / (2 * step), parameter.grad.view(-1)[i].item()


@pytest.mark.parametrize("cv_objective", ["distribution", "weights"])
@pytest.mark.parametrize("case", MODELS)
def test_phi_descends_its_objective_and_the_policy_does_not_notice(case, cv_objective):
    """Against finite differences; the policy's weights, an extractor's included, get ĝ and V's loss alone."""
    model = build(case, cv_objective=cv_objective)
    data, noise = batch(model), model.noise_generator.get_state()
    ours, expected = backward(model, data, noise)
    for a, b in zip(ours, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or th.allclose(a, b, atol=1e-12)
    quotients, gradients = th.tensor(list(difference_quotients(model, data, noise))).T
    assert th.allclose(gradients, quotients, rtol=1e-5, atol=1e-6 * quotients.abs().max().item())
    assert quotients.abs().max() > 1e-3


def test_phi_trained_on_the_score_term_alone_is_told_apart():
    model = build("exact")
    in_full(model).estimator = lambda c: twins.ExactOnScoreTermAlone(c, center=False)
    data, noise = batch(model), model.noise_generator.get_state()
    backward(model, data, noise)
    quotients, gradients = th.tensor(list(difference_quotients(model, data, noise))).T
    assert (gradients - quotients).abs().max() > 0.01 * quotients.abs().max()


@pytest.mark.parametrize("cv_objective", ["distribution", "weights"])
def test_further_steps_of_phi_are_steps_on_the_same_objective(cv_objective):
    """Without relaxation noise: three steps of gradient descent, each from where the last one ended."""
    model = build("exact", cv_objective=cv_objective, n_cv_steps=3, cv_learning_rate=0.02)
    data, noise = batch(model), model.noise_generator.get_state()
    by_hand = copy.deepcopy(model)
    in_full(model).optimizer = th.optim.SGD(model.control_variate.parameters(), 0.02)
    for _ in range(3):
        backward(by_hand, data, noise)
        for parameter in by_hand.control_variate.parameters():
            parameter.data -= 0.02 * parameter.grad
    output, estimate = estimated(model, data, noise)
    before = [p.detach().clone() for p in model.control_variate.parameters()]
    model.control_variate.fit(output, data[2], estimate, model.noise_generator)
    assert not any(map(th.equal, before, model.control_variate.parameters()))
    pairs = zip(model.control_variate.parameters(), by_hand.control_variate.parameters(), strict=True)
    assert all(th.allclose(a, b, atol=1e-12) for a, b in pairs)


@pytest.mark.parametrize("max_grad_norm", [1e-2, 1e9])
def test_further_steps_of_v_are_clipped_steps_towards_the_returns(max_grad_norm):
    model = build("discrete", n_critic_steps=2, max_grad_norm=max_grad_norm)
    observations, actions, advantages = batch(model)
    returns = th.randn(N, dtype=th.float64) + 3
    model.view.evaluate(observations, actions)  # finds out which weights are V's alone
    critic = model.view.critic_weights
    model.policy.optimizer = th.optim.SGD(model.policy.parameters(), 0.1)
    loss = 0.5 * F.mse_loss(model.policy.predict_values(observations).flatten(), returns)
    gradients = th.autograd.grad(loss, critic)
    norm = th.cat([g.flatten() for g in gradients]).norm().item()
    assert norm > 1e-2
    expected = [p - 0.1 * g * min(1.0, max_grad_norm / norm) for p, g in zip(critic, gradients, strict=True)]
    model.critic.fit(
        Batch(observations, actions, advantages, returns, np.arange(N), (N, 1)),
        None,  # which rollout it is of matters to a replay alone
        model.vf_coef,
        model.max_grad_norm,
        model.noise_generator,
    )
    assert all(th.allclose(p, e, rtol=1e-4, atol=1e-8) for p, e in zip(critic, expected, strict=True))


def test_the_rate_of_phi_follows_its_schedule():
    model = RELAXA2C(
        "MlpPolicy",
        TinyEnv(ACTION_SPACES["discrete"]),
        seed=0,
        device="cpu",
        cv_learning_rate=LinearSchedule(1e-2, 0.0, 1.0),
    )
    used, logged, asked = [], [], []
    fit, train = model.control_variate.fit, model.train

    def spy_on_fit(*args):
        (group,) = model.cv_optimizer.param_groups
        used.append(group["lr"])
        return fit(*args)

    def spy_on_train():
        train()
        logged.append(model.logger.name_to_value["train/cv_learning_rate"])
        asked.append(1e-2 * model._current_progress_remaining)

    model.control_variate.fit, model.train = spy_on_fit, spy_on_train
    model.learn(50)
    assert len(used) == 10
    assert used == logged == pytest.approx(asked)
    assert used[-1] < 0.2 * used[0]


@pytest.mark.parametrize("n_episodes", [None, 1])
def test_one_step_is_not_normalised(n_episodes):
    """It has no standard deviation: as PPO, which would otherwise divide by NaN."""
    model = RELAXA2C(
        "MlpPolicy",
        TinyEnv(spaces.Discrete(3), length=1),
        seed=0,
        device="cpu",
        n_steps=1,
        n_episodes=n_episodes,
        normalize_advantage=True,
    )
    seen = []
    original = in_full(model).gradient
    in_full(model).gradient = lambda output, signal, *rest: seen.append(signal) or original(output, signal, *rest)
    model.learn(5)
    assert all(p.isfinite().all() for p in model.policy.parameters())
    assert len(seen) == 5
    assert all(advantages.abs() > 0 for advantages in seen)


def test_a_seed_given_to_load_starts_the_relaxation_noise_anew(tmp_path):
    RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(2)), seed=0, device="cpu").learn(20).save(tmp_path / "agent")
    first, again, other, none = (
        th.rand(8, generator=RELAXA2C.load(tmp_path / "agent", device="cpu", seed=seed).noise_generator)
        for seed in (1, 1, 2, None)
    )
    assert th.equal(first, again)
    assert not th.equal(first, other)
    assert not th.equal(first, none)


class Exploration:
    """gSDE's noise matrix at every step."""

    def __init__(self):
        self.matrices = []

    def __call__(self, now, _):
        model = now["self"] if "self" in now else now["model"]
        self.matrices.append(model.policy.action_dist.exploration_mat.clone())
        return True


@pytest.mark.parametrize("n_episodes", [None, 1])
@pytest.mark.parametrize(("sde_sample_freq", "held"), [(-1, 7), (1, 1), (3, 3)])
def test_gsde_noise_is_drawn_when_it_should_be(n_episodes, sde_sample_freq, held):
    """Once a rollout (of 7 steps here), or every ``sde_sample_freq`` steps of it, in both kinds of rollout.

    With 1 the noise of an action is none that an earlier state has seen.
    """
    model = LAXA2C(
        "MlpPolicy",
        make_vec_env(lambda: TinyEnv(ACTION_SPACES["box"]), 1),
        seed=0,
        device="cpu",
        use_sde=True,
        sde_sample_freq=sde_sample_freq,
        n_steps=7,
        n_episodes=n_episodes,
        learning_rate=0.0,
    )
    exploration = Exploration()
    model.learn(21, callback=exploration)
    assert len(exploration.matrices) == 21
    for rollout in range(3):
        for i in range(1, 7):
            before, now = exploration.matrices[7 * rollout + i - 1 : 7 * rollout + i + 1]
            assert th.equal(before, now) == (i % held != 0)
        assert rollout == 0 or not th.equal(*exploration.matrices[7 * rollout - 1 : 7 * rollout + 1])


@pytest.mark.parametrize("kwargs", [{}, {"cv_guard": False}, {"cv_action_dependent": False}, {"update_rule": "kfac"}])
@pytest.mark.parametrize("space", ACTION_SPACES)
def test_it_trains_under_autocast_where_a2c_does(space, kwargs):
    algorithm = LAXA2C if space == "box" else RELAXA2C
    theirs = A2C("MlpPolicy", TinyEnv(ACTION_SPACES[space]), device="cpu")
    with th.autocast("cpu", th.float16), contextlib.suppress(RuntimeError):
        theirs.learn(10)
    if theirs.policy.action_net.weight.grad is None:  # torch 2.8 keeps what a rollout has cast, without a graph
        pytest.skip("A2C does not train under autocast with this version of torch")
    model = algorithm("MlpPolicy", TinyEnv(ACTION_SPACES[space]), device="cpu", **kwargs)
    with th.autocast("cpu", th.float16):
        model.learn(20)
    assert all(weight.isfinite().all() for weight in model.policy.parameters())
