"""Samples without replacement: the sampler's law, what is left of the probability, and what the estimator gains."""

import pytest
import torch

from sb3_relax.estimators import (
    NVIL,
    RLOO,
    Exact,
    GumbelOneHot,
    LogisticBernoulli,
    UnorderedSet,
    check_unbiased,
    gradient_variance,
)
from sb3_relax.estimators.without_replacement import log_probability_left
from tests.estimators import twins
from tests.estimators.problems import OBJECTIVES, leaf

MASK = torch.tensor([True, False, True, True])
LATENTS = {
    "bit": lambda: LogisticBernoulli(leaf(torch.tensor([0.7]))),
    "bits": lambda: LogisticBernoulli(leaf(torch.tensor([0.7, -1.2, 0.1]))),
    "classes": lambda: GumbelOneHot(leaf(torch.tensor([[0.3, -0.4, 1.9, 0.0]]))),
    "variables": lambda: GumbelOneHot(leaf(torch.tensor([[0.3, -0.4, 1.0], [1.0, 0.2, 0.0]]))),
    "masked": lambda: GumbelOneHot(
        leaf(torch.tensor([[0.3, 5.0, -0.4, 1.0]])), torch.tensor([True, False, True, True])
    ),
}


@pytest.mark.parametrize("name", LATENTS)
def test_the_sampler_draws_every_ordered_pair_as_often_as_it_should(name, float64):
    latent, draws = LATENTS[name]().detach(), 50_000
    b = UnorderedSet().draw(latent.expand(draws), torch.Generator().manual_seed(0))
    support = latent.support()
    size = len(support)
    first, second = ((x.unsqueeze(0) == support.unsqueeze(1)).flatten(2).all(-1).double().argmax(0) for x in b)
    counts = torch.bincount(first * size + second, minlength=size**2)
    pairs = torch.cartesian_prod(torch.arange(size), torch.arange(size)).T
    p = UnorderedSet().probability_of_draws(latent.expand(size**2), support[pairs])
    assert p.sum().item() == pytest.approx(1)
    assert counts[p == 0].sum() == 0
    z = (counts - draws * p) / (draws * p * (1 - p)).sqrt()
    assert z[(p > 0) & (p < 1)].abs().max() < 4.5


@pytest.mark.parametrize(("name", "samples"), [("bit", 2), ("bit", 3), ("classes", 4), ("masked", 3), ("masked", 4)])
def test_of_all_values_it_is_exact(name, samples, float64):
    """Where there are fewer values, the rest are copies, which weigh nothing; a forbidden class is never asked for."""
    latent = LATENTS[name]().expand(20)
    f, asked = OBJECTIVES["network"](LATENTS[name]()), []

    def seen(b):
        asked.append(b)
        return f(b)

    estimate = UnorderedSet(samples)(latent, seen)
    exact = Exact()(latent, f)
    assert torch.allclose(estimate.grad, exact.grad)
    assert torch.allclose(estimate.value, exact.value)
    assert asked[0].shape[0] == samples
    if name == "masked":
        assert asked[0][..., 1].max() == 0


@pytest.mark.parametrize("samples", [2, 3, 4])
@pytest.mark.parametrize("name", ["bits", "variables"])
def test_joint_values_of_several_variables(name, samples, float64):
    latent = LATENTS[name]()
    for objective in ("network", "with θ"):
        assert check_unbiased(UnorderedSet(samples), latent, OBJECTIVES[objective](latent)).error < 1e-10


def test_a_leave_one_out_baseline_alone_is_rejected(float64):
    latent = LATENTS["classes"]()
    assert check_unbiased(twins.DistinctRLOO(), latent, OBJECTIVES["network"](latent)).error > 1e-3


def test_what_is_left_is_right_where_it_is_a_billionth(float64):
    """In float32 as in float64: 1 - Σ p would be 0."""
    logits = torch.tensor([[0.0, -21.0, -21.5, -22.0, -23.0]])
    wide = GumbelOneHot(logits)
    b = wide.support()[[0, 2]]
    expected = (wide.probabilities[0, [1, 3, 4]]).sum().log()
    assert log_probability_left(wide, b).item() == pytest.approx(expected.item())
    narrow = GumbelOneHot(logits.float())
    assert log_probability_left(narrow, b.float()).item() == pytest.approx(expected.item(), rel=1e-6)
    value = torch.tensor([1.0, -2.0])
    grads = [UnorderedSet().finish(q, b.to(q.theta), value).grad.double() for q in (wide, narrow)]
    assert torch.allclose(*grads, rtol=1e-5, atol=1e-16)
    bits = LogisticBernoulli(torch.tensor([25.0, -24.0, 0.3], dtype=torch.float32))
    b = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float32)
    assert log_probability_left(bits, b).exp().item() == pytest.approx(
        (-torch.expm1(LogisticBernoulli(bits.theta.double()).log_prob(b.double()).logsumexp(0))).item(), rel=1e-5
    )


def test_it_pays_where_p_is_peaked():
    """Variance × calls on sixteen classes of which one has most of the probability, NVIL's mean of f known to it."""
    torch.manual_seed(0)
    logits, values = 3 * torch.randn(1, 16), torch.randn(16)
    latent = GumbelOneHot(logits)

    def f(b):
        return (b * values).sum((-1, -2))

    nvil = NVIL()
    for _ in range(30):
        nvil(latent.expand(200), f).learn()
    cost = {
        e: e.evaluations * gradient_variance(e, latent, f, 4_000, torch.Generator().manual_seed(1)).variance
        for e in (nvil, RLOO(8), UnorderedSet(8))
    }
    of_nvil, of_rloo, of_set = cost.values()
    assert of_set < 0.1 * of_nvil < 0.1 * of_rloo


def test_numbers_of_samples():
    for samples, message in ((1, "at least 2"), (13, "at most 12, since every subset is looked at; got 13")):
        with pytest.raises(ValueError, match=message):
            UnorderedSet(samples)
    latent = LogisticBernoulli(torch.zeros(3, 5))
    assert UnorderedSet(12)(latent, lambda b: b.sum(-1)).grad.isfinite().all()
