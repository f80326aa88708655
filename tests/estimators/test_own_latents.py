"""Slips of those who write a latent of their own."""

import pytest
import torch

from sb3_relax.estimators import LAX, Joint, Latent, LogisticBernoulli, ReparameterisedLatent, make


class Normal(Latent):
    """A normal of unit variance, written with the slips that ``slip`` names."""

    event_ndim = 1
    sample_ndim = 1

    def __init__(self, loc, slip):
        self.theta, self.slip = loc, slip

    def at(self, theta):
        return Normal(theta, self.slip)

    def sample(self, generator=None):
        if self.slip == "a sample of one":
            return torch.zeros(self.theta.shape[1:])
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


class WithPath(Normal, ReparameterisedLatent):
    """The same, whose samples move with its parameters."""

    def at(self, theta):
        return WithPath(theta, self.slip)

    def at_noise(self, noise):
        return self.wide_theta + noise

    def path_gradient(self, b, slope):
        return slope.sum(-1) if self.slip == "a summed path" else slope


class Quadratic(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, z):
        return self.weight * z.square().sum(-1)


@pytest.mark.parametrize("name", ["reinforce", "nvil", "rloo"])
def test_samples_with_a_graph_give_no_second_gradient(name):
    loc = torch.full((40_000, 1), 0.7, requires_grad=True)
    q = Normal(loc, "attached samples")
    make(name, q)(q, lambda b: b.square().sum(-1), torch.Generator().manual_seed(0)).backward()
    found = len(loc) * loc.grad
    assert abs(found.mean() - 1.4) < 5 * found.std() / len(loc) ** 0.5 < 0.3


#: slip → what is said of it
SHAPES = {
    "a summed score": r"\.score\(b\), which is that of θ, must have shape \(5, 2\) here; got \(5,\)",
    "a log-probability of each": r"\.log_prob\(b\), .* must have shape \(5,\) here; got \(5, 2\)",
    "a dimension more": r"\.log_prob\(b\), .* must have shape \(5,\) here; got \(5, 1\)",
    "a sample of one": r"\.sample\(\) must have shape \(5, 2\) here; got \(2,\)",
    "a summed path": r"\.path_gradient\(b, slope\), .* must have shape \(5, 2\) here; got \(5,\)",
}


@pytest.mark.parametrize(
    ("name", "slip"),
    [
        *(
            (name, slip)
            for name in ("reinforce", "nvil", "rloo", "vimco")
            for slip in SHAPES
            if slip != "a summed path"
        ),
        *(("lax", slip) for slip in SHAPES),
    ],
)
def test_another_shape_than_it_must_have_is_named(name, slip):
    class Own(WithPath if name == "lax" else Normal):
        """A class that nobody has looked at yet."""

    q = Own(torch.zeros(5, 2, requires_grad=True), slip)
    estimator = LAX(Quadratic()) if name == "lax" else make(name, Normal(torch.zeros(5, 2), "none"))
    with pytest.raises(ValueError, match="Own" + SHAPES[slip]):
        estimator(q, lambda b: b.square().sum(-1))


class ByAutograd(Normal):
    """Its score is autograd's, and its samples are torch's, of the global generator alone."""

    def sample(self, generator=None):
        return torch.distributions.Normal(self.wide_theta.detach(), 1.0).sample()

    def score(self, b):
        theta = self.theta.detach().requires_grad_()
        return torch.autograd.grad(ByAutograd(theta, self.slip).log_prob(b).sum(), theta)[0]


def test_a_score_by_autograd_and_global_randomness_will_do():
    values = []
    for _ in range(2):  # looked at the first time alone

        class Own(ByAutograd):
            pass

        torch.manual_seed(4)
        q = Own(torch.zeros(5, 2, requires_grad=True), "none")
        values += [make("reinforce", q)(q, lambda b: b.square().sum(-1)).value for _ in range(2)]
    torch.manual_seed(4)
    expected = [Own(torch.zeros(5, 2), "none").sample().square().sum(-1) for _ in range(2)] * 2
    assert all(map(torch.equal, values, expected))


def test_it_is_looked_at_once_and_with_randomness_of_its_own():
    class Own(Normal):
        samples = 0

        def sample(self, generator=None):
            Own.samples += 1
            return super().sample(generator)

    q, first = Own(torch.zeros(5, 2, requires_grad=True), "none"), torch.Generator().manual_seed(3)
    values = [make("reinforce", q)(q, lambda b: b.square().sum(-1), first).value for _ in range(2)]
    assert Own.samples == 3
    second, known = torch.Generator().manual_seed(3), Normal(q.theta, "none")
    for value in values:
        assert torch.equal(value, make("reinforce", known)(known, lambda b: b.square().sum(-1), second).value)


def test_what_every_latent_must_say_is_named_where_it_is_missing():
    class Own(Normal):
        def __init__(self, loc):
            self.loc = loc

    with pytest.raises(TypeError, match="Own must have theta, as every Latent"):
        make("reinforce", Normal(torch.zeros(5, 2), "none"))(Own(torch.zeros(5, 2)), lambda b: b.sum(-1))


def test_a_part_of_a_joint_is_looked_at_too():
    class Own(Normal):
        """A class that nobody has looked at yet."""

        def at(self, theta):
            return Own(theta, self.slip)

    q = Joint(bits=LogisticBernoulli(torch.zeros(5, 3)), own=Own(torch.zeros(5, 2), "a summed score"))
    with pytest.raises(ValueError, match=r"Own\.score"):
        make("rloo", q)(q, lambda b: b.sum(-1))


def test_a_context_of_a_part_would_be_read_by_nobody():
    part = LogisticBernoulli(torch.zeros(5, 3)).with_context(torch.zeros(5, 1))
    with pytest.raises(ValueError, match=r"part 'bits' has a context, which nothing would read: the whole has one"):
        Joint(bits=part)


@pytest.mark.parametrize(
    ("slip", "shape"), [("a log-probability of each", r"\[5, 2\]"), ("a dimension more", r"\[5, 1\]")]
)
def test_a_part_of_a_joint_with_another_log_probability_is_named(slip, shape):
    q = Joint(bits=LogisticBernoulli(torch.zeros(5, 3)), own=Normal(torch.zeros(5, 2), slip))
    with pytest.raises(ValueError, match=r"log_prob\(\) of every part .* must be \[5\], .* that of 'own' is " + shape):
        q.log_prob(q.sample())
    right = Joint(bits=LogisticBernoulli(torch.zeros(5, 3)), own=Normal(torch.zeros(5, 2), "none"))
    assert right.log_prob(right.sample()).shape == (5,)
