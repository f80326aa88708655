"""torch.compile of a whole step, inference mode, and another device."""

import pytest
import torch

from sb3_relax.estimators import ESTIMATORS, GumbelOneHot, LogisticBernoulli, make
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


@pytest.mark.parametrize("name", ["nvil", "relax"])
def test_a_whole_step_is_traced_without_a_break(name):
    ours, theirs = gradients_of_a_step(name, True), gradients_of_a_step(name, False)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


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
        if ESTIMATORS[name].needs_grad_f or name == "dlax":
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
