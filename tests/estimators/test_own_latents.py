"""Slips of those who write a latent of their own."""

import pytest
import torch

from sb3_relax.estimators import Joint, Latent, LogisticBernoulli, make


class Normal(Latent):
    """A normal of unit variance, written with the slips that ``slip`` names."""

    event_ndim = 1
    sample_ndim = 1

    def __init__(self, loc, slip):
        self.theta, self.slip = loc, slip

    def at(self, theta):
        return Normal(theta, self.slip)

    def sample(self, generator=None):
        attached = self.wide_theta + torch.randn(self.wide_theta.shape, generator=generator)
        return attached if self.slip == "attached samples" else attached.detach()

    def log_prob(self, b):
        each = -0.5 * (b - self.wide_theta).square()
        return (
            each if self.slip == "a log-probability of each" else each.sum(-1, keepdim=self.slip == "a dimension more")
        )

    def score(self, b):
        score = b - self.wide_theta.detach()
        return score.sum(-1) if self.slip == "a summed score" else score


@pytest.mark.parametrize("name", ["reinforce", "nvil", "rloo"])
def test_samples_with_a_graph_give_no_second_gradient(name):
    loc = torch.full((40_000, 1), 0.7, requires_grad=True)
    q = Normal(loc, "attached samples")
    make(name, q)(q, lambda b: b.square().sum(-1), torch.Generator().manual_seed(0)).backward()
    found = len(loc) * loc.grad
    assert abs(found.mean() - 1.4) < 5 * found.std() / len(loc) ** 0.5 < 0.3


@pytest.mark.parametrize("name", ["reinforce", "nvil"])
def test_a_score_of_another_shape_than_theta_is_refused(name):
    q = Normal(torch.zeros(5, 2, requires_grad=True), "a summed score")
    with pytest.raises(
        ValueError, match=r"ĝ must have the shape of the latent's theta, \(5, 2\); got .* of Normal, score"
    ):
        make(name, q)(q, lambda b: b.square().sum(-1))


@pytest.mark.parametrize(
    ("slip", "shape"), [("a log-probability of each", r"\[5, 2\]"), ("a dimension more", r"\[5, 1\]")]
)
def test_a_part_of_a_joint_with_another_log_probability_is_named(slip, shape):
    q = Joint(bits=LogisticBernoulli(torch.zeros(5, 3)), own=Normal(torch.zeros(5, 2), slip))
    with pytest.raises(ValueError, match=r"log_prob\(\) of every part .* must be \[5\], .* that of 'own' is " + shape):
        q.log_prob(q.sample())
    right = Joint(bits=LogisticBernoulli(torch.zeros(5, 3)), own=Normal(torch.zeros(5, 2), "none"))
    assert right.log_prob(right.sample()).shape == (5,)
