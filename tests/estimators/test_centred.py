"""The running mean of f that is subtracted before c: earlier batches alone, and what it remembers of them.

That any m leaves the mean of ĝ as it is, is shown where every estimator's is: ``lively`` sets one.
"""

import pytest
import torch

from sb3_relax.estimators import (
    ESTIMATORS,
    REBAR,
    Gaussian,
    GumbelOneHot,
    LogisticBernoulli,
    Reinforce,
    gradient_variance,
    make,
)
from sb3_relax.estimators.centred import DECAY, CentredEstimator, RunningMean

CENTRED = [name for name, kind in ESTIMATORS.items() if issubclass(kind, CentredEstimator)]


def latent_for(name):
    if name in ("lax", "lax_curvature", "mirrored"):
        return Gaussian(torch.zeros(8, 2, requires_grad=True), torch.zeros(2))
    return LogisticBernoulli(torch.zeros(8, 2, requires_grad=True))


def f(b):
    return b.square().sum(-1) + 10


def test_these_are_centred():
    assert CENTRED == ["mirrored", "rebar", "lax", "lax_curvature", "dlax", "relax", "exact_correction"]
    assert [name for name in CENTRED if not make(name, latent_for(name)).center] == ["rebar"]


@pytest.mark.parametrize("name", [name for name in CENTRED if name != "mirrored"])  # it has two scores
def test_a_batch_counts_from_the_next_one_on(name, float64):
    latent = latent_for(name)
    estimator = make(name, latent, center=True)
    first = estimator(latent, f)
    assert estimator.running_mean.batches == 0
    # c = 0 at the start, or f itself relaxed
    assert name == "rebar" or torch.allclose(first.grad, first.score_term)
    first.backward()
    second = estimator(latent, f)
    after_one = (second.value.detach() - first.value.detach().mean()).unsqueeze(-1)
    if latent.event_ndim == 2:
        after_one = after_one.unsqueeze(-1)
    if name != "rebar":
        assert torch.allclose(second.grad, after_one * second.score)
    second.backward()
    mean = (first.value + second.value).detach().mean() / 2
    assert torch.isclose(estimator.running_mean.mean, mean)
    assert torch.equal(second.score_term, second.value.detach().reshape(-1, *[1] * latent.event_ndim) * second.score)


@pytest.mark.parametrize("name", CENTRED)
def test_without_it_nothing_is_remembered(name):
    latent = latent_for(name)
    estimator = make(name, latent, center=False)
    estimator(latent, f).backward()
    assert list(estimator.buffers()) == []


def test_the_first_hundred_batches_count_alike_and_later_ones_fade():
    mean, values = RunningMean(), torch.randn(150, dtype=torch.float64)
    mean.double()
    for i, value in enumerate(values):
        mean.take_in(value.reshape(1))
        if i < 100:
            assert torch.isclose(mean.mean, values[: i + 1].mean())
    expected = values[:100].mean()
    for value in values[100:]:
        expected = DECAY * expected + (1 - DECAY) * value
    assert torch.isclose(mean.mean, expected)
    mean.take_in(values[:0])
    assert torch.isclose(mean.mean, expected)


@pytest.mark.parametrize("coupled", [True, False])
def test_rebar_has_f_less_its_mean_in_c_as_well(coupled, float64):
    """With η = 1 and any m it is REBAR without, sample by sample."""
    latent = GumbelOneHot(torch.randn(6, 2, 3))
    ours, theirs = REBAR(coupled=coupled, center=True), REBAR(coupled=coupled)
    ours.running_mean.mean.fill_(3.0)

    def g(b):
        return b[..., 0].square().sum(-1) + 10

    grads = [e(latent, g, torch.Generator().manual_seed(0)).grad for e in (ours, theirs)]
    assert torch.allclose(*grads)


def test_an_estimator_saved_without_goes_on_without():
    latent = latent_for("relax")
    relax = make("relax", latent)
    state = {**vars(relax), "_modules": {"surrogate": relax.surrogate}}
    del state["center"]
    older = type(relax).__new__(type(relax))
    older.__setstate__(state)
    older(latent, f).backward()


def test_it_helps_at_the_start():
    """A tenth of REINFORCE's variance after one batch, where f's mean is ten times its deviation."""
    latent = LogisticBernoulli(torch.zeros(24, 8, requires_grad=True))
    one, relax = latent.select(0).detach(), make("relax", latent)
    relax(latent, f).backward()
    ours, theirs = (gradient_variance(e, one, f, 4000).variance for e in (relax, Reinforce()))
    assert ours < 0.1 * theirs


def test_a_batch_that_overflows_is_not_remembered():
    mean = RunningMean()
    mean.take_in(torch.tensor([3.0]))
    mean.take_in(torch.tensor([1e39], dtype=torch.float64))
    assert mean.mean.item() == 3
    assert mean.batches.item() == 1
