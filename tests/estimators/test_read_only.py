"""Control variates and baselines leave θ, samples and the context as they are, or are refused."""

import pytest
import torch
from torch import nn

from sb3_relax.estimators import (
    LAX,
    NVIL,
    RELAX,
    CurvatureLAX,
    ExactCorrection,
    Gaussian,
    Joint,
    LogisticBernoulli,
    MuProp,
    make,
)

HOW = {
    "adds": lambda x: x.add_(5.0),
    "clamps without autograd": lambda x: clamped(x),
}


@torch.no_grad()
def clamped(x):
    return x.clamp_(-1, 1)


class Writes(nn.Module):
    """One number of its input, which it has written into."""

    def __init__(self, how, what="input"):
        super().__init__()
        self.network, self.how, self.what = nn.Linear(2, 1), how, what

    def forward(self, x, context=None):
        self.how(x if self.what == "input" else context)
        return self.network(x).squeeze(-1)


def f(b):
    return b.square().sum(-1)


def bits():
    return LogisticBernoulli(torch.full((4, 2), 3.0, requires_grad=True))


def numbers():
    return Gaussian(torch.full((4, 2), 3.0, requires_grad=True), torch.zeros(4, 2))


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
@pytest.mark.parametrize(
    ("kind", "latent"), [(RELAX, bits), (LAX, numbers), (CurvatureLAX, numbers), (ExactCorrection, bits)]
)
def test_a_surrogate_that_writes_into_its_sample_is_refused(how, kind, latent):
    with pytest.raises(
        ValueError, match="the surrogate writes into its input, or into a parameter, by an in-place operation"
    ):
        kind(Writes(how))(latent(), f)


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_a_surrogate_that_writes_into_the_context_is_refused(how):
    with pytest.raises(ValueError, match="the surrogate writes into its input"):
        RELAX(Writes(how, "context"))(bits(), f, context=torch.full((4, 2), 3.0))


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
@pytest.mark.parametrize("kind", [NVIL, MuProp])
@pytest.mark.parametrize("context", [None, torch.full((4, 2), 3.0)], ids=["theta", "context"])
def test_a_baseline_that_writes_is_refused(how, kind, context):
    context = None if context is None else context.clone()
    with pytest.raises(ValueError, match="the baseline writes into its input"):
        kind(Writes(how))(bits(), f, context=context)


def test_an_error_of_another_kind_is_left_as_it_is():
    def wrong(x):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        RELAX(Writes(wrong))(bits(), f)


def test_a_network_for_the_context_is_not_given_theta_in_its_place():
    q = bits()
    with pytest.raises(TypeError, match="this MLPBaseline reads a context of size 2: call the estimator with context="):
        make("nvil", q, context=2)(q, f)
    with pytest.raises(ValueError, match=r"this MLPBaseline reads a context of shape \(4, 3\); got \(4, 2\)"):
        make("nvil", q, context=3)(q, f, context=torch.zeros(4, 2))
    make("nvil", q, context=3)(q, f, context=torch.zeros(4, 3)).backward()


def test_what_is_no_tensor_and_no_size_is_named():
    q = bits()
    with pytest.raises(TypeError, match="the surrogate must return a tensor, made of z by torch; got ndarray"):
        RELAX(lambda z: z.detach().sum(-1).numpy())(q, f)
    with pytest.raises(TypeError, match="f must return a tensor of real numbers; got ndarray: torch"):
        make("reinforce", q)(q, lambda b: b.sum(-1).numpy())
    for context in ([1.0] * 4, torch.zeros(4, 2).numpy(), 3):
        with pytest.raises(TypeError, match="context must be a tensor; got"):
            make("relax", q, context=2)(q, f, context=context)
    for name in ("relax", "nvil"):
        with pytest.raises(TypeError, match=r"context= is here the size of what the network will read.*got Tensor"):
            make(name, q, context=torch.zeros(4, 2))
        with pytest.raises(
            TypeError, match=r"hidden must be the widths of the hidden layers, such as .64, 64.; got 32"
        ):
            make(name, q, context=2, hidden=32)
    with pytest.raises(TypeError, match="logits must be a tensor; got list"):
        LogisticBernoulli([0.0, 1.0])
    with pytest.raises(TypeError, match="log_scale must be a tensor; got float"):
        Gaussian(torch.zeros(3), 0.0)
    with pytest.raises(ValueError, match=r"weight must be one number; got a tensor of shape \(4,\)"):
        make("reinforce", q)(q, f).backward(weight=torch.ones(4))
    with pytest.raises(TypeError, match="the parts must be of one type; got"):
        Joint(a=LogisticBernoulli(torch.zeros(4, 2)), b=LogisticBernoulli(torch.zeros(4, 2).double()))
