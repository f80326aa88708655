"""Quadrature that has not converged says so, and is not taken for a bias."""

import warnings

import pytest
import torch

from sb3_relax.estimators import (
    LAX,
    RELAX,
    Gaussian,
    Implicit,
    Joint,
    LogisticBernoulli,
    MLPSurrogate,
    check_unbiased,
    exact_gradient,
)


def numbers():
    return Gaussian(torch.tensor([0.3]), torch.tensor([-0.4]))


def step(b):
    return (b > 0.1).to(b.dtype).sum(-1)


def smooth(b):
    return b.pow(3).sum(-1)


def of_both(f):
    return lambda b: f(b[..., :1]) + b[..., 1:].sum(-1)


def wild(latent):
    """A control variate with weights that no grid is fine enough for."""
    torch.manual_seed(0)
    c = MLPSurrogate.of(latent, hidden=[64, 64])
    for parameter in c.parameters():
        torch.nn.init.normal_(parameter)
    return c


@pytest.mark.parametrize("latent", [numbers, lambda: Joint(a=numbers(), b=LogisticBernoulli(torch.zeros(2)))])
def test_the_gradient_of_a_step_is_not_exact(latent, float64):
    with pytest.warns(UserWarning, match="exact_gradient is not exact here: quadrature with 40 and with 26 nodes"):
        exact_gradient(latent(), of_both(step) if isinstance(latent(), Joint) else step)


@pytest.mark.parametrize("latent", [numbers, lambda: LogisticBernoulli(torch.zeros(2))])
def test_a_smooth_f_and_one_of_bits_is_exact(latent, float64):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact_gradient(latent(), smooth if isinstance(latent(), Gaussian) else step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "f",
    [
        lambda b: torch.full_like(b[..., 0], 3.0),
        lambda b: 100 + 0.001 * b.sum(-1),
        lambda b: (b - 0.3).square().sum(-1),
    ],
    ids=["constant", "large", "stationary"],
)
def test_rounding_is_not_called_rough(f, dtype):
    latent = Gaussian(torch.tensor([0.3], dtype=dtype), torch.tensor([-30.0], dtype=dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact_gradient(latent, f)
        exact_gradient(Joint(a=latent, b=LogisticBernoulli(torch.zeros(2, dtype=dtype))), lambda b: f(b[..., :1]))


def test_an_error_of_the_quadrature_is_not_called_a_bias(float64):
    for kind, latent in ((LAX, numbers()), (RELAX, LogisticBernoulli(torch.zeros(1)))):
        with pytest.warns(UserWarning, match="quadrature has not converged, so that the error does not tell"):
            assert not check_unbiased(kind(wild(latent)), latent, smooth, 20).unbiased


def test_a_bias_is_one_at_every_number_of_nodes(float64):
    class Biased(LAX):
        def of_value(self, latent, b, value, noise):
            return super().of_value(latent, b, 1.1 * value, noise)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not check_unbiased(Biased(lambda z: z.square().sum(-1)), numbers(), smooth).unbiased


def test_a_latent_without_a_rule_names_what_takes_it(float64):
    gamma = Implicit(torch.distributions.Gamma(torch.ones(2), torch.ones(2)))
    with pytest.raises(
        TypeError, match=r"no enumeration or quadrature is known for Implicit\. bias_z_scores takes any"
    ):
        exact_gradient(gamma, smooth)
