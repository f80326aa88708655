"""The network whose passes are written by hand, against autograd's own."""

import itertools

import pytest
import torch

from sb3_relax.estimators.tanh_network import forward_pass, value_and_slope_of_tanh_network


def problem(depth, leading, rows_have_biases):
    """x, and layers of which the first may have one bias for every row, as where a state shifts it."""
    sizes = [3, 5, 4, 6][: depth + 1]
    x = torch.randn(*leading, sizes[0])
    layers = []
    for below, width in itertools.pairwise(sizes):
        own = rows_have_biases and not layers
        layers.append((torch.randn(width, below), torch.randn(*(leading[-1:] if own else ()), width)))
    parts = [x, torch.randn(1, sizes[-1]), torch.randn(1), *(part for layer in layers for part in layer)]
    return [part.requires_grad_() for part in parts]


def by_hand(x, weight, bias, *flat):
    return value_and_slope_of_tanh_network(x, list(zip(flat[0::2], flat[1::2], strict=True)), weight, bias)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("leading", [(), (1,), (4,), (2, 4)])
@pytest.mark.parametrize("rows_have_biases", [False, True])
def test_value_slope_and_their_derivatives(depth, leading, rows_have_biases, float64):
    parts = problem(depth, leading, rows_have_biases and leading != ())
    value, slope = by_hand(*parts)
    x = parts[0]
    formula = forward_pass(x, *parts[1:3], parts[3:])
    assert torch.equal(value, formula.value)
    (expected,) = torch.autograd.grad(formula.value.sum(), x, create_graph=True)
    assert torch.allclose(slope, expected, atol=1e-12)
    cotangents = (torch.randn_like(value), torch.randn_like(slope))
    ours = torch.autograd.grad((value, slope), parts, cotangents)
    theirs = torch.autograd.grad((formula.value, expected), parts, cotangents)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-11)


def test_by_finite_differences(float64):
    assert torch.autograd.gradcheck(by_hand, problem(2, (3,), False))
    assert torch.autograd.gradcheck(by_hand, problem(1, (2, 3), True))


def test_no_rows(float64):
    parts = problem(2, (0,), False)
    value, slope = by_hand(*parts)
    assert value.shape == (0,)
    gradients = torch.autograd.grad(value.sum() + slope.sum(), parts)
    assert all((gradient == 0).all() for gradient in gradients)


def test_a_second_derivative_is_refused_rather_than_wrong(float64):
    parts = problem(2, (3,), False)
    value, slope = by_hand(*parts)
    (gradient,) = torch.autograd.grad(value.sum() + slope.square().sum(), parts[:1], create_graph=True)
    with pytest.raises(RuntimeError, match=r"marked with @once_differentiable|does not require grad"):
        gradient.sum().backward()
