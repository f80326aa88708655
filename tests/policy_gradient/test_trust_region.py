"""The target of the natural gradient's steps, where none is given."""

import math

import pytest
import torch as th
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_relax.policy_gradient.update_rules.natural_gradient.trust_region import (
    FIRST_KL,
    KEPT,
    LARGEST_RATIO,
    LEAST,
    MOST,
    PACE,
    TrustRegion,
)
from tests.policy_gradient.test_natural_gradient import CG_CASES, KFAC_CASES, PLAIN, recorded

GRADIENTS = [th.tensor([[1.0, 2.0], [0.0, 1.0]]), th.tensor([3.0])]
STEP = [0.1 * th.tensor([[1.0, 1.0], [5.0, 0.0]]), 0.1 * th.tensor([2.0])]
PROMISE = 0.1 * (1 + 2 + 0 + 0 + 6)


def after(ratio, first=FIRST_KL):
    return first * math.exp(PACE * (ratio - KEPT))


@pytest.mark.parametrize(
    ("newest", "ratio"),
    [
        (GRADIENTS, 1.0),
        ([0 * GRADIENTS[0], GRADIENTS[1]], 0.6 / PROMISE),
        ([-part for part in GRADIENTS], -1.0),
        ([th.tensor([[1.0, -1.0], [0.0, 9.0]]), th.zeros(1)], 0.0),
    ],
    ids=["all of it", "a part", "the opposite", "nothing"],
)
def test_it_follows_what_the_next_batch_says(newest, ratio):
    region = TrustRegion(variables=1)
    region.observe(newest)
    assert region.kl == FIRST_KL  # nothing was promised
    region.promise(STEP, GRADIENTS)
    region.observe(newest)
    assert region.ratio == pytest.approx(ratio, abs=1e-6)
    assert region.kl == pytest.approx(after(ratio))


def test_its_bounds():
    for sign, bound in ((1, MOST), (-1, LEAST)):
        region = TrustRegion(variables=4)
        region.promise(STEP, GRADIENTS)
        region.observe([sign * 1e3 * part for part in GRADIENTS])
        assert region.kl == pytest.approx(after(sign * LARGEST_RATIO, 2 * FIRST_KL))
        for _ in range(200):
            region.observe([sign * part for part in GRADIENTS])
        assert region.kl == pytest.approx(bound * 2 * FIRST_KL)


@pytest.mark.parametrize("newest", [math.nan, math.inf])
def test_what_is_no_number_says_nothing(newest):
    region = TrustRegion(variables=1)
    region.promise(STEP, GRADIENTS)
    region.observe([part + newest for part in GRADIENTS])
    assert region.kl == FIRST_KL


def test_where_no_step_was_made_nothing_is_said():
    region = TrustRegion(variables=1)
    region.promise(STEP, GRADIENTS)
    region.promise([0 * part for part in STEP], GRADIENTS)
    region.observe(GRADIENTS)
    assert region.kl == FIRST_KL


@pytest.mark.parametrize("case", [*KFAC_CASES, *CG_CASES])
def test_the_first_step_grows_with_the_root_of_the_number_of_variables(case):
    model = (KFAC_CASES | CG_CASES)[case]()
    assert model.target_kl is None
    assert model.update_rule.target_kl == pytest.approx(0.002 * math.sqrt(get_action_dim(model.action_space)))
    for measured, kl in recorded(model, 4)[1:]:
        assert kl <= measured["target_kl"] * 1.11


@pytest.mark.parametrize("case", ["discrete", "box", "lstm"])
def test_what_is_promised_is_the_step_that_was_made(case):
    model = (KFAC_CASES | CG_CASES)[case]()
    weights, told = model.view.actor_weights, []
    model.update_rule.region.observe = lambda newest: told.append([part.clone() for part in newest])
    for _ in range(3):
        before = [weight.detach().clone() for weight in weights]
        model.learn(model.n_steps, reset_num_timesteps=False)
        moved = [weight.detach() - start for weight, start in zip(weights, before, strict=True)]
        th.testing.assert_close(model.update_rule.region.last_step.values(), moved, rtol=1e-3, atol=1e-6)
    # each batch's gradient is its own, for ascent: the loss' with the other sign
    for weight, newest in zip(weights, told[-1], strict=True):
        assert th.sign(newest).ne(th.sign(-weight.grad)).sum() == 0


@pytest.mark.parametrize(("noise", "grows"), [(False, True), (True, False)], ids=["signal", "noise"])
def test_signal_lengthens_steps_and_noise_shortens_them(noise, grows):
    model = PLAIN["discrete"]()
    generator = th.Generator().manual_seed(0)
    for _ in range(40):
        observations = th.randn(64, 3, generator=generator)
        actions = model.policy.get_distribution(observations).distribution.probs.detach()
        actions = th.multinomial(actions, 1, generator=generator)
        output = model.view.evaluate(observations, actions)
        signal = th.randn(64, generator=generator) if noise else 1.0 - actions.flatten().float()
        estimate = model.control_variate.gradient(output, signal, model.noise_generator)
        model.update_rule.step(output, estimate, 0 * output.values.sum(), 64, 1e9)
    assert (model.update_rule.target_kl > 2 * FIRST_KL) == grows
    assert (model.update_rule.target_kl < FIRST_KL) != grows


def test_what_is_logged():
    logged = PLAIN["discrete"]().learn(64).logger.name_to_value
    assert logged["train/target_kl"] > 0
    assert "train/slope_ratio" in logged
    assert "train/target_kl" not in PLAIN["discrete"](target_kl=0.01).learn(64).logger.name_to_value
