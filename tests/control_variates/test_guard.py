"""The guard's numbers, one by one: what it has learned of earlier batches, and the share that this leads to."""

import pytest
import torch as th
from gymnasium import spaces

from sb3_relax import RELAXA2C
from sb3_relax.control_variates.guard import Guarded, GuardedEstimate
from sb3_relax.control_variates.network import ScaledNetwork
from sb3_relax.estimators import Estimate
from sb3_relax.estimators.latents import LogisticBernoulli
from sb3_relax.estimators.moments import ChangeMoments
from tests.helpers import TinyEnv


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
