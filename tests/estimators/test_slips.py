"""Slips that once gave a wrong gradient without a word."""

import pytest
import torch
from torch import nn

from sb3_relax.estimators import (
    DLAX,
    LAX,
    REBAR,
    RELAX,
    RLOO,
    ExactCorrection,
    Gaussian,
    GumbelOneHot,
    Joint,
    LogisticBernoulli,
    Reinforce,
    Reparam,
    make,
)

BITS = LogisticBernoulli(torch.zeros(5, 3, requires_grad=True))
NORMALS = Gaussian(torch.zeros(5, 3, requires_grad=True), torch.zeros(5, 3))


def total(b):
    return b.sum(-1)


@pytest.mark.parametrize(
    ("make_estimator", "q"),
    [
        (RELAX, BITS),
        (lambda c: RELAX(c, coupled=False), BITS),
        (lambda c: RELAX(c, draws=2), BITS),
        (DLAX, BITS),
        (ExactCorrection, BITS),
        (lambda c: REBAR(residual=c), BITS),
        (LAX, NORMALS),
        (RELAX, Joint(a=NORMALS, b=BITS)),
    ],
)
def test_a_surrogate_with_a_dimension_too_many(make_estimator, q):
    size = 6 if isinstance(q, Joint) else 3
    estimator = make_estimator(nn.Linear(size, 1))
    with pytest.raises(ValueError, match=r"surrogate must return one value per sample.*squeeze\(-1\)"):
        estimator(q, total)
    make_estimator(nn.Sequential(nn.Linear(size, 1), nn.Flatten(-2)))(q, total).backward()


def test_a_value_that_does_not_vary_over_the_batch_is_refused():
    with pytest.raises(ValueError, match="surrogate must return one value per sample"):
        RELAX(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)))(
            LogisticBernoulli(torch.zeros(2, 5, 3, requires_grad=True)), total
        )


def in_place(b):
    if not b.requires_grad:
        b.numpy()[...] = 0
    return torch.ones(b.shape[:-1])


@pytest.mark.parametrize("name", ["reinforce", "nvil", "rloo", "disarm", "arms", "relax", "dlax", "exact_correction"])
def test_f_may_write_into_its_samples(name):
    logits = torch.zeros(2000, 1)
    kwargs = {"samples": 4} if name in ("rloo", "arms") else {}
    grads = [
        make(name, LogisticBernoulli(logits), **kwargs)(
            LogisticBernoulli(logits), f, torch.Generator().manual_seed(0)
        ).grad
        for f in (in_place, lambda b: torch.ones(b.shape[:-1]))
    ]
    assert torch.equal(*grads)


def test_f_may_write_into_its_samples_of_one_hots():
    q = GumbelOneHot(torch.zeros(2000, 1, 3))
    f = lambda b: in_place(b.flatten(-2))  # noqa: E731
    assert Reinforce()(q, f, torch.Generator().manual_seed(0)).grad.mean(0).abs().max() < 0.1
    assert RLOO(3)(q, f, torch.Generator().manual_seed(0)).grad.abs().max() == 0


def test_a_context_in_the_generators_place():
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator; got Tensor.*context=h"):
        Reinforce()(BITS, total, torch.zeros(5, 2))


def test_a_black_box_of_normals_is_told_what_takes_normals():
    with pytest.raises(TypeError, match="LAX for continuous samples"):
        Reparam()(NORMALS, lambda b: (b > 0).sum(-1))
