"""The guard's numbers, one by one: what it has learned of earlier batches, and the share that this leads to."""

import pytest
import torch as th
from gymnasium import spaces

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.control_variates import OneStepModel
from sb3_relax.control_variates.guard import Guarded, GuardedEstimate
from sb3_relax.control_variates.network import ScaledNetwork
from sb3_relax.estimators import Estimate
from sb3_relax.estimators.latents import LogisticBernoulli
from sb3_relax.estimators.moments import ChangeMoments
from tests.helpers import ACTION_SPACES, TinyEnv


def guard():
    model = RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), device="cpu")
    assert isinstance(model.control_variate, Guarded)
    return model.control_variate


def moments(plain, cross, change):
    return ChangeMoments((plain, cross, change), (0.0, 0.0, 0.0))


def test_the_share_is_the_one_of_least_variance():
    guarded = guard()
    assert guarded.share == 0
    guarded.take_in(moments(2.0, -1.0, 4.0))
    assert guarded.share == pytest.approx(1 / 4)
    guarded.take_in(moments(4.0, -6.0, 4.0))
    # each batch is divided by its own size, and the earlier one counts 0.9 times as much
    assert guarded.share == pytest.approx((0.9 * 0.5 + 1.5) / (0.9 * 2 + 1))
    assert guarded.size.item() == pytest.approx(0.9 * 2 + 0.1 * 4)
    guarded.take_in(moments(1.0, 50.0, 1.0))
    assert guarded.share == 0


def test_a_batch_of_hardly_any_advantages_is_measured_by_the_earlier_ones():
    guarded = guard()
    guarded.take_in(moments(2.0, -1.0, 4.0))
    guarded.take_in(moments(0.01, -0.1, 0.1))
    assert guarded.square.item() == pytest.approx(0.9 * 2 + 0.1 / 0.2)


def test_at_a_share_of_0_a_gradient_that_is_not_finite_does_not_matter():
    latent = LogisticBernoulli(th.zeros(2, 1))
    score, value = th.ones(2, 1), th.tensor([1.0, 2.0])
    full = Estimate(latent, value, th.full((2, 1), float("nan")), score=score)
    assert th.equal(GuardedEstimate(full, 0.0).grad, full.score_term)
    assert GuardedEstimate(full, 0.5).grad.isnan().all()


def test_the_scale_is_the_root_of_the_mean_square():
    network = next(m for m in guard().modules() if isinstance(m, ScaledNetwork))
    network.observe(th.tensor([0.3, -0.4]))
    assert network.scale.item() == pytest.approx((0.25 / 2) ** 0.5)
    network.observe(th.tensor([2.0]))
    decay = network.scale_decay
    assert network.scale.item() == pytest.approx((decay * 0.125 + (1 - decay) * 4) ** 0.5)


@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("exact", "discrete"),
        ("model", "discrete"),
        ("qprop", "box"),
        ("qprop", "discrete"),
        ("stein", "box"),
        ("factorised", "multibinary"),
        ("model+state", "multibinary"),
        ("trajectory_model+model+exact", "discrete"),
    ],
)
def test_garbage_is_left_out(name, space):
    """A q of random weights that nothing is learned by, advantages that know nothing of it, batches of 128 steps."""
    algorithm = LAXA2C if space == "box" else RELAXA2C
    model = algorithm("MlpPolicy", TinyEnv(ACTION_SPACES[space]), control_variate=name, seed=0, device="cpu")
    guarded = model.control_variate
    with th.no_grad():
        for parameter in guarded.parameters():
            parameter.copy_(th.randn_like(parameter))
        for part in guarded.modules():
            if isinstance(part, OneStepModel):  # whose outputs are in the scale of what it has seen, nothing so far
                for buffer in part.buffers():
                    buffer.fill_(1.0)
    generator = th.Generator().manual_seed(0)
    left = []
    with th.no_grad():
        for _ in range(150):
            observations = th.rand(128, 3, generator=generator)
            actions = model.policy(observations)[0]
            output = model.view.evaluate(observations, actions)
            signal = th.randn(128, generator=generator)
            estimate = guarded.gradient(output, signal, model.noise_generator)
            moments = estimate.moments
            left.append(moments.square_at(1) / moments.square_at(0))
            guarded.observe(estimate)
    assert sum(left[50:]) / 100 < 1.02
    # while without a guard it would be
    alone = [part.moments for part in getattr(estimate.full, "parts", [estimate.full])]
    assert max(part.square_at(1) / part.square_at(0) for part in alone) > 1.3
