"""D = 200 and D × K = 10 × 10: z-scores of 20,000 estimates against a gradient known in closed form.

Per case the largest of 200 (or 100) z-scores must stay below 4.5. For a right estimator P(|N(0,1)| > 4.5) = 6.8e-6, so
a case fails by chance with probability at most 1.4e-3 · (1 + what skew adds), and all of them with about 3%: hence the
fixed seeds. A gradient that is off by 2% (bits) or 10% (classes) must be found.
"""

import pytest
import torch

from sb3_relax.estimators import ESTIMATORS, GumbelOneHot, LogisticBernoulli, bias_z_scores, make
from tests.estimators.problems import lively

SAMPLES = 20_000
LIMIT = 4.5
DIM = 200


def bits():
    """f(b) = Σ a_i b_i + 2/D (Σ c_i b_i)², whose gradient is known: p(1-p) times ∂f̄/∂p."""
    generator = torch.Generator().manual_seed(5)
    logits, a, c = (torch.randn(DIM, generator=generator) for _ in range(3))
    latent, p = LogisticBernoulli(logits), logits.sigmoid()

    def f(b):
        return b @ a + 2 / DIM * (b @ c).square()

    # E[(Σ c b)²] = (Σ c p)² + Σ c² p(1-p)
    slope = a + 2 / DIM * (2 * c * (c @ p) + c.square() * (1 - 2 * p))
    return latent, f, p * (1 - p) * slope


def classes():
    """f(b) = Σ w_dk b_dk + (Σ v_dk b_dk)²/10: independent variables again."""
    generator = torch.Generator().manual_seed(6)
    logits, w, v = (torch.randn(10, 10, generator=generator) for _ in range(3))
    latent = GumbelOneHot(logits)
    theta = logits.clone().requires_grad_()
    p = theta.softmax(-1)

    def f(b):
        return (b * w).sum((-2, -1)) + (b * v).sum((-2, -1)).square() / 10

    mean = (p * v).sum(-1)
    square = (p * v * v).sum(-1)
    expected = (p * w).sum() + (mean.sum().square() + (square - mean.square()).sum()) / 10
    return latent, f, torch.autograd.grad(expected, theta)[0]


PROBLEMS = {"bits": bits, "classes": classes}


def small_enough(name, latent):
    kind = ESTIMATORS[name]
    return kind.unbiased and isinstance(latent, kind.latents) and name not in ("exact", "exact_correction", "vimco")


CASES = [
    (problem, name) for problem, make_ in PROBLEMS.items() for name in ESTIMATORS if small_enough(name, make_()[0])
]


def z_scores(problem, estimator):
    latent, f, exact = PROBLEMS[problem]()
    generator = torch.Generator().manual_seed(7)
    return bias_z_scores(estimator, latent, f, exact, SAMPLES, generator)


@pytest.mark.parametrize(("problem", "name"), CASES)
def test_z_scores(problem, name):
    torch.manual_seed(0)
    z = z_scores(problem, lively(make(name, PROBLEMS[problem]()[0])))
    assert z.abs().max() < LIMIT
    # and they are spread like standard normals
    assert 0.8 < z.std() < 1.25


@pytest.mark.parametrize(("problem", "off"), [("bits", 1.02), ("classes", 1.1)])
def test_a_small_bias_is_found(problem, off):
    latent, f, exact = PROBLEMS[problem]()
    estimator = make("double_cv", latent, scale=-1.0)  # of little variance for these f, so that little is found
    z = bias_z_scores(estimator, latent, f, off * exact, SAMPLES, torch.Generator().manual_seed(7))
    assert z.abs().max() > LIMIT


@pytest.mark.parametrize(("name", "settings"), [("double_cv", {"scale": -1.0}), ("exact", {})])
def test_an_estimator_without_variance_is_right_to_rounding(name, settings):
    """Or off by more: z-scores in units of rounding, neither infinite nor blind."""
    latent, weight = LogisticBernoulli(torch.tensor([0.3, -0.2])), torch.tensor([1.3, 0.7])
    exact = latent.mean_gradient(weight)
    for off, found in ((1.0, False), (1.001, True)):
        z = bias_z_scores(make(name, latent, **settings), latent, lambda b: b @ weight, off * exact, 1_000)
        assert (z.abs() > 100).all() if found else (z.abs() < 20).all(), z


@pytest.mark.parametrize("name", ["reinforce", "rloo", "relax", "disarm"])
def test_a_value_that_is_hardly_drawn_is_untestable(name):
    """Without it, an unbiased estimator had z-scores of 1e15 where a bit is never drawn."""
    latent = LogisticBernoulli(torch.tensor([0.3, -30.0, 30.0, -8.0]))  # of the last one some seven in 20,000
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    exact = latent.mean_gradient(weight)
    z = bias_z_scores(lively(make(name, latent)), latent, lambda b: b @ weight, exact, SAMPLES, torch.Generator())
    # in float32 p = 1 of the third, whose score is 0: it has no gradient that could be missed
    assert z.isnan().tolist() == [False, True, False, True]
    assert z[0].abs() < LIMIT
    assert bias_z_scores(make("exact", latent), latent, lambda b: b @ weight, exact, 100).isfinite().all()


def test_a_class_that_is_hardly_drawn_is_untestable():
    mask = torch.tensor([True, True, True, False])
    latent = GumbelOneHot(torch.tensor([[0.0, 0.3, -20.0, 0.0]]), mask)
    weight = torch.arange(4.0)
    f, exact = (lambda b: (b @ weight).sum(-1)), latent.mean_gradient(weight)
    z = bias_z_scores(make("rloo", latent), latent, f, exact, SAMPLES, torch.Generator())
    assert z.isnan().tolist() == [[False, False, True, False]]
