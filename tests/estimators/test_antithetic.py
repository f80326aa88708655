"""Samples that exclude each other: their law, and the estimators that know it."""

import pytest
import torch

from sb3_relax.estimators import (
    ARMS,
    CARMS,
    RLOO,
    CoupledCategorical,
    DisARM,
    GumbelOneHot,
    LogisticBernoulli,
    bias_z_scores,
    check_unbiased,
    gradient_variance,
    make,
)
from sb3_relax.estimators.antithetic_bits import antithetic_bits, inverse_correlation, pattern_probability
from tests.estimators import twins
from tests.estimators.problems import OBJECTIVES, leaf

P = torch.tensor([0.02, 0.3, 0.5, 0.77, 0.999], dtype=torch.float64)


@pytest.mark.parametrize("samples", [2, 3, 4])
def test_bits_come_in_the_patterns_they_should(samples, float64):
    draws = 50_000
    b = antithetic_bits(P.expand(draws, -1), samples, torch.Generator().manual_seed(0))
    number = (b.movedim(0, -1) * 2 ** torch.arange(samples)).sum(-1).long()
    patterns = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * samples).flip(-1)  # the first bit varies fastest
    for i, p in enumerate(P):
        counts = torch.bincount(number[:, i], minlength=2**samples)
        ones = patterns.sum(-1)
        expected = pattern_probability(p, ones, torch.full_like(ones, samples), samples)
        assert expected.sum().item() == pytest.approx(1)
        z = (counts - draws * expected) / (draws * expected * (1 - expected)).sqrt().clamp(min=1e-3)
        assert z.abs().max() < 4.5
        # the correlation of two of them, from their own law
        pair = pattern_probability(p, torch.tensor(2.0), torch.tensor(2.0), samples)
        correlation = (pair - p * p) / (p * (1 - p))
        assert correlation < 0
        assert inverse_correlation(p, samples).item() == pytest.approx(1 / (1 - correlation.item()), rel=1e-6)


def test_two_samples_of_bits_are_disarm(float64):
    latent = LogisticBernoulli(2 * torch.randn(50, 4))
    u = torch.rand(50, 4)
    b = torch.stack([u > (-latent.theta).sigmoid(), u < latent.theta.sigmoid()]).to(u)
    f = OBJECTIVES["network"](LogisticBernoulli(torch.zeros(4)))
    ours = ARMS(2).finish(latent, b, f(b).detach()).grad
    assert torch.allclose(ours, DisARM().estimate(latent, f, None, u).grad)


@pytest.mark.parametrize("samples", [2, 3])
def test_two_classes_are_one_bit(samples, float64):
    """Of a one-hot with logits (0, l), whatever the order of its classes."""
    bit = LogisticBernoulli(2 * torch.randn(40, 1))
    pair = GumbelOneHot(torch.stack([torch.zeros(40, 1), bit.theta], dim=-1))
    b = ARMS(samples).draw(bit)
    value = torch.randn(samples, 40)
    of_bit = ARMS(samples).finish(bit, b, value).grad
    for kind in (CoupledCategorical, CARMS):
        of_pair = kind(samples).finish(pair, torch.stack([1 - b, b], dim=-1), value).grad
        assert torch.allclose(of_pair[..., 1], of_bit)
        assert torch.allclose(of_pair[..., 0], -of_bit)


@pytest.mark.parametrize("kind", [CoupledCategorical, CARMS])
@pytest.mark.parametrize("samples", [2, 3])
def test_several_variables_of_several_classes(samples, kind, float64):
    latent = GumbelOneHot(leaf(torch.randn(2, 3)))
    f = OBJECTIVES["network"](latent)
    check = check_unbiased(kind(samples), latent, f)
    assert check.error < 1e-10
    z = bias_z_scores(kind(samples), latent, f, check.exact, 20_000, torch.Generator().manual_seed(0))
    assert z.abs().max() < 4.5


@pytest.mark.parametrize("kind", [CoupledCategorical, CARMS])
@pytest.mark.parametrize("samples", [2, 3, 4])
def test_classes_come_as_often_as_the_proof_takes_them(samples, kind, float64):
    draws, classes = 50_000, 4
    latent = GumbelOneHot(torch.tensor([[0.3, -2.0, 1.0, 0.1]]))
    b = kind(samples).draw(latent.expand(draws), torch.Generator().manual_seed(0))
    number = (b.argmax(-1).squeeze(-1).movedim(0, -1) * classes ** torch.arange(samples)).sum(-1)
    every = torch.cartesian_prod(*[torch.arange(classes)] * samples).flip(-1)  # the first sample varies fastest
    one_hots = torch.eye(classes)[every].movedim(1, 0).unsqueeze(-2)
    expected = kind(samples).probability_of_draws(latent.expand(len(every)), one_hots)
    assert expected.sum().item() == pytest.approx(1)
    counts = torch.bincount(number, minlength=len(every))
    assert not counts[expected < 1e-12].any()
    often = draws * expected > 20
    z = (counts - draws * expected)[often] / (draws * expected * (1 - expected)).sqrt()[often]
    assert z.abs().max() < 4.5


def test_every_pair_of_classes_can_be_drawn(float64):
    """Or CARMS would miss what their difference tells: along a single order some have no probability at all."""
    latent = GumbelOneHot(torch.tensor([[0.3, -2.0, 1.0, 0.1, -5.0]]))
    pairs = torch.eye(5)[torch.combinations(torch.arange(5))].movedim(1, 0).unsqueeze(-2)
    independent = latent.log_prob(pairs).sum(0).exp()
    assert (CARMS(2).probability_of_draws(latent.expand(10), pairs) > 1e-3 * independent).all()


def test_carms_of_more_classes_than_torch_draws_names_another():
    """torch.multinomial takes 2²⁴ categories, and CARMS has C² of them."""
    latent = GumbelOneHot(torch.zeros(1, 4097))
    with pytest.raises(ValueError, match=r"at most 4,096 classes; got 4,097\. Use CoupledCategorical"):
        CARMS()(latent, lambda b: b[..., 0].sum(-1))


def test_carms_has_less_variance_where_classes_are_few(float64):
    """Of four samples; of two, rare pairs of many classes weigh so much that it may have more."""
    latent, weight = GumbelOneHot(torch.randn(1, 3)), torch.randn(3)
    ours, theirs = (
        gradient_variance(e, latent, lambda b: (b.squeeze(-2) @ weight).sin(), 10_000, torch.Generator().manual_seed(1))
        for e in (CARMS(4), RLOO(4))
    )
    assert ours.variance < 0.8 * theirs.variance


@pytest.mark.parametrize(
    ("twin", "of"),
    [
        (twins.UndividedARMS, lambda: LogisticBernoulli(leaf(torch.tensor([0.7, -0.4])))),
        (twins.UndividedCoupled, lambda: GumbelOneHot(leaf(torch.tensor([[0.3, -0.4, 0.9]])))),
        (twins.UnweighedCARMS, lambda: GumbelOneHot(leaf(torch.tensor([[0.3, -0.4, 0.9]])))),
    ],
)
def test_a_baseline_that_is_not_independent_is_rejected(twin, of, float64):
    latent = of()
    assert check_unbiased(twin(), latent, OBJECTIVES["network"](latent)).error > 1e-3


@pytest.mark.parametrize("samples", [2, 4])
@pytest.mark.parametrize("name", ["arms", "coupled_categorical"])
def test_less_variance_than_independent_samples(name, samples):
    torch.manual_seed(0)
    latent = LogisticBernoulli(torch.randn(8)) if name == "arms" else GumbelOneHot(torch.randn(4, 5))
    weight = torch.randn(latent.sample().numel())

    def f(b):
        return (b.flatten(-latent.sample_ndim) @ weight).sin()

    ours, theirs = (
        gradient_variance(e, latent, f, 10_000, torch.Generator().manual_seed(1))
        for e in (make(name, latent, samples=samples), RLOO(samples))
    )
    assert ours.variance + 4 * ours.standard_error < theirs.variance - 4 * theirs.standard_error
