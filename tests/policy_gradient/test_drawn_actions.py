"""Actions as SB3 draws them, to the last bit and with the same random numbers."""

import pytest
import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
)

from sb3_relax.policy_gradient.drawn_actions import draw_actions

N = 40


def distribution(name):
    th.manual_seed(0)
    if name == "two classes":
        return CategoricalDistribution(2).proba_distribution(th.randn(N, 2))
    if name == "classes that are never drawn":
        return CategoricalDistribution(7).proba_distribution(100 * th.randn(N, 7))
    if name == "numbers":
        return DiagGaussianDistribution(3).proba_distribution(th.randn(N, 3), th.randn(3))
    if name == "one number":
        return DiagGaussianDistribution(1).proba_distribution(th.randn(5, 1), th.randn(1))
    if name == "squashed":
        return SquashedDiagGaussianDistribution(3).proba_distribution(th.randn(N, 3), th.randn(3))
    if name == "several variables":
        return MultiCategoricalDistribution([2, 3]).proba_distribution(th.randn(N, 5))
    return BernoulliDistribution(4).proba_distribution(th.randn(N, 4))


@pytest.mark.parametrize(
    "name",
    ["two classes", "classes that are never drawn", "numbers", "one number", "squashed", "several variables", "bits"],
)
def test_actions_are_sb3s(name):
    of = distribution(name)
    th.manual_seed(1)
    expected = []
    for _ in range(5):
        actions = of.get_actions()
        expected.append((actions, of.log_prob(actions)))
    after = th.rand(3)
    th.manual_seed(1)
    drawn = [draw_actions(of) for _ in range(5)]
    assert th.equal(th.rand(3), after)
    for ours, theirs in zip(drawn, expected, strict=True):
        assert all(map(th.equal, ours, theirs))


@pytest.mark.parametrize("logit", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [0, 1])
def test_probabilities_that_are_not_finite_are_refused_as_torch_refuses_them(logit, at):
    logits = th.zeros(5, 2)
    logits[3, at] = logit
    th.distributions.Distribution.set_default_validate_args(False)
    try:
        of = CategoricalDistribution(2).proba_distribution(logits)
    finally:
        th.distributions.Distribution.set_default_validate_args(True)
    with pytest.raises(RuntimeError, match="probability tensor contains"):
        draw_actions(of)
