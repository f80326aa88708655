"""torch.compile of a whole step, inference mode, and another device."""

import pytest
import torch

from sb3_relax.estimators import ESTIMATORS, Gaussian, GaussianMixture, GumbelOneHot, KSubset, LogisticBernoulli, make
from tests.estimators.problems import lively


def gradients_of_a_step(name, compiled, backend="eager"):
    """θ's and φ's gradients, of randomness of torch's global generator."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    theta = torch.randn(8, 4, requires_grad=True)
    weight = torch.randn(4)
    estimator = lively(make(name, LogisticBernoulli(theta)))

    def step(theta):
        return estimator(LogisticBernoulli(theta), lambda b: (b * weight).sum(-1).square()).loss()

    if compiled:
        step = torch.compile(step, fullgraph=True, backend=backend)
    for _ in range(2):  # the second step has statistics of the first
        torch.manual_seed(1)
        theta.grad = None
        estimator.zero_grad()
        loss = step(theta)
        loss.backward()
    return [loss.detach(), theta.grad, *(p.grad for p in estimator.parameters()), *estimator.buffers()]


def gradients_of_given_draws(name, backend):
    """Of one step, all of whose randomness is given, so that any backend must have the same."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    kind = ESTIMATORS[name]
    one = LogisticBernoulli if issubclass(LogisticBernoulli, kind.latents) else lambda x: Gaussian(x, torch.zeros(4))
    theta, weight = torch.randn(8, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    estimator = lively(make(name, one(theta)))
    b, noise = estimator.draw(one(theta)), estimator.draw_noise(one(theta))

    def step(theta, b, noise):
        return estimator.estimate(one(theta), lambda b: (b * weight).sum(-1).square(), b, noise).loss()

    if backend is not None:
        step = torch.compile(step, fullgraph=True, backend=backend)
    loss = step(theta, b, noise)
    loss.backward()
    return [loss.detach(), theta.grad, weight.grad, *(p.grad for p in estimator.parameters()), *estimator.buffers()]


def are_those_of_given_draws(name, backend):
    ours, theirs = gradients_of_given_draws(name, backend), gradients_of_given_draws(name, None)
    return all(torch.allclose(a, b, atol=1e-5, rtol=1e-4) for a, b in zip(ours, theirs, strict=True))


def test_what_is_subtracted_is_of_earlier_batches():
    """The mean that was there before the step: the compiler took it as it was by the time of the backward pass."""
    assert are_those_of_given_draws("relax", "aot_eager")


#: what differentiates a surrogate, or f, twice by autograd, which torch refuses to trace
UNTRACED = {"rebar", "exact_correction", "lax_curvature"}
TRACED = [
    name
    for name, kind in ESTIMATORS.items()
    if name not in UNTRACED and (issubclass(LogisticBernoulli, kind.latents) or issubclass(Gaussian, kind.latents))
]


@pytest.mark.parametrize("name", ["straight_through", "muprop", "double_cv"])
def test_with_a_slope_of_f(name):
    assert are_those_of_given_draws(name, "eager")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", TRACED)
def test_every_one_that_can_be_traced(name, backend):
    assert are_those_of_given_draws(name, backend)


@pytest.mark.parametrize("name", ["nvil", "relax"])
def test_a_whole_step_is_traced_without_a_break(name):
    ours, theirs = gradients_of_a_step(name, True), gradients_of_a_step(name, False)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("rloo", lambda x: KSubset(x, 2)),
        ("simple", lambda x: KSubset(x, 2)),
        ("rloo", lambda x: GaussianMixture(x, x.sin(), x[..., :1])),
    ],
    ids=["subset-rloo", "subset-simple", "mixture-rloo"],
)
def test_a_step_that_makes_its_latent_is_traced(name, of):
    """Its own ``sample`` included: one that is decorated with ``torch.no_grad()`` cannot be traced."""
    torch._dynamo.reset()
    theta = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    estimator = make(name, of(theta))

    def step(theta):
        return estimator(of(theta), lambda b: b.cumsum(-1).square().sum(-1)).loss()

    found = []
    for traced in (step, torch.compile(step, fullgraph=True, backend="eager")):
        torch.manual_seed(1)
        found.append(torch.autograd.grad(traced(theta), theta)[0])
    assert torch.allclose(*found, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reinforce", "nvil", "rloo", "vimco", "relax", "arm", "disarm"])
def test_a_whole_step_by_aot_autograd(name):
    ours, theirs = gradients_of_a_step(name, True, "aot_eager"), gradients_of_a_step(name, False)
    assert len(ours) == len(theirs)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    "name", [name for name, kind in ESTIMATORS.items() if issubclass(LogisticBernoulli, kind.latents)]
)
def test_in_inference_mode(name):
    """The numbers are those of any other mode; where f must be differentiated, the error says so."""
    latent = LogisticBernoulli(torch.randn(5, 3))
    estimator = lively(make(name, latent))

    def estimate():
        return estimator(latent, lambda b: (b.sum(-1) - 1).square(), torch.Generator().manual_seed(0)).grad

    expected = estimate()
    with torch.inference_mode():
        if ESTIMATORS[name].needs_grad_f:
            with pytest.raises(RuntimeError, match=r"inference_mode\(\) records no graph: use torch\.no_grad\(\)"):
                estimate()
        else:
            assert torch.allclose(estimate(), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", [name for name, kind in ESTIMATORS.items() if issubclass(GumbelOneHot, kind.latents)])
def test_on_cuda(name):
    theta = torch.randn(64, 2, 3, device="cuda", requires_grad=True)
    latent = GumbelOneHot(theta)
    estimator = lively(make(name, latent))
    generator = torch.Generator("cuda").manual_seed(0)
    for _ in range(2):
        estimator(latent, lambda b: (b[..., 0].sum(-1) - 1).square(), generator).backward()
    assert theta.grad.device.type == "cuda"
    assert theta.grad.isfinite().all()
