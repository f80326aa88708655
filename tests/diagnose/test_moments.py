"""The estimators of the split: unbiased in small designs, with right standard errors; and twins that are not."""

import numpy as np
import pytest
import torch as th

from sb3_relax.diagnose.gram import fisher
from sb3_relax.diagnose.jackknife import Jackknifed, mean_over_pairs
from sb3_relax.diagnose.moments import Terms, split
from sb3_relax.estimators import Gaussian, GumbelOneHot, LogisticBernoulli

SIZES = dict(states=6, actions=2, futures=3, draws=2)
#: Standard deviations of ĝ's parts: of the state's mean, the action's, the future's and the relaxation's.
STATE, ACTION, FUTURE, NOISE = 0.7, 1.1, 1.6, 0.4


def design(rng, states, actions, futures, draws):
    """ĝ = m(s) + a + τ + u, all normal, d = 2, at the weights themselves; two states share each group and its mean."""
    groups = np.arange(states) // 2
    mean = 0.5 + STATE * rng.normal(size=(states // 2, 2))[groups][:, None]
    of_action = ACTION * rng.normal(size=(states, actions, 2))
    correction = (mean + of_action)[:, :, None] + NOISE * rng.normal(size=(states, actions, draws, 2))
    advantages = th.from_numpy(FUTURE * rng.normal(size=(states, actions, futures)))
    score = th.zeros(states, actions, 2, dtype=th.float64)
    score[..., 0] = 1
    correction = th.from_numpy(correction)
    of_state = (advantages.mean(2).unsqueeze(-1) * score + correction.mean(2)).mean(1)
    sums = th.zeros(states // 2, 2, dtype=th.float64).index_add(0, th.from_numpy(groups), of_state)
    square = mean_over_pairs(sums, np.bincount(groups))
    return Terms(advantages, score, correction, th.eye(2, dtype=th.float64).expand(states, 2, 2), square, groups)


TRUTH = dict(future=FUTURE**2, noise=2 * NOISE**2, action=2 * ACTION**2, state=2 * STATE**2)


def test_unbiased_with_right_standard_errors():
    rng = np.random.default_rng(0)
    splits = [split(design(rng, **SIZES)) for _ in range(3_000)]
    for part, truth in TRUTH.items():
        values = np.array([getattr(each, part).value for each in splits])
        assert abs(values.mean() - truth) < 4.5 * values.std() / len(values) ** 0.5, part
        assert values.std() / len(values) ** 0.5 < truth / 20, part
    wide = [split(design(rng, **{**SIZES, "states": 80})) for _ in range(300)]
    for part in TRUTH:
        values = np.array([getattr(each, part).value for each in wide])
        errors = np.array([getattr(each, part).standard_error for each in wide])
        assert np.sqrt(np.square(errors).mean()) == pytest.approx(values.std(), rel=0.2), part


def of_one_level_down(terms):
    """Σ_a without taking off what is left of futures and relaxation."""
    of_action = terms.advantages.mean(2).unsqueeze(-1) * terms.score + terms.correction.mean(2)
    return of_action.var(1).sum(1).mean().item()


def of_all_pairs(terms):
    """Σ_s with ‖mean‖² in the place of pairs."""
    of_state = (terms.advantages.mean(2).unsqueeze(-1) * terms.score + terms.correction.mean(2)).mean(1)
    return of_state.var(0).sum().item()


@pytest.mark.parametrize(("twin", "part"), [(of_one_level_down, "action"), (of_all_pairs, "state")])
def test_broken_twins_are_biased(twin, part):
    rng = np.random.default_rng(0)
    values = np.array([twin(design(rng, **SIZES)) for _ in range(1_000)])
    assert abs(values.mean() - TRUTH[part]) > 10 * values.std() / len(values) ** 0.5


def test_one_of_a_kind_is_refused():
    for short in ("actions", "futures"):
        with pytest.raises(ValueError, match="at least two"):
            split(design(np.random.default_rng(0), **{**SIZES, short: 1}))


LATENTS = {
    "normal": Gaussian(th.tensor([[0.3, -1.0]]), th.tensor([[0.2, -0.5]])),
    "bits": LogisticBernoulli(th.tensor([[0.5, -2.0, 1.0]])),
    "classes": GumbelOneHot(th.tensor([[[0.5, -2.0, 1.0], [0.0, 0.1, -1.0]]])),
}


@pytest.mark.parametrize("name", list(LATENTS))
def test_fisher_is_the_mean_square_of_the_score(name):
    latent = LATENTS[name]
    wide = latent.at(latent.theta.expand(200_000, *latent.theta.shape[1:]))
    score = wide.score(wide.sample(th.Generator().manual_seed(0))).flatten(1).double()
    products = score.unsqueeze(-1) * score.unsqueeze(-2)
    error = products.std(0) / len(score) ** 0.5
    assert ((products.mean(0) - fisher(latent)[0]).abs() <= 4.5 * error + 1e-6).all()
    assert error.max() < 0.05


def test_jackknife_knows_what_numerator_and_denominator_share():
    x = np.random.default_rng(0).normal(size=50) + 5
    replicates = (x.sum() - x) / 49
    measured = Jackknifed(x.mean(), replicates)
    assert measured.standard_error == pytest.approx(x.std(ddof=1) / 50**0.5)
    assert (measured / measured).standard_error == 0
    assert (measured - measured).standard_error == 0
    low, high = measured.interval(0.95)
    assert high - low == pytest.approx(2 * 2.00958 * measured.standard_error, rel=1e-4)
