"""MultiDiscrete actions in one batch are SB3's: probabilities, gradients, samples with the same random numbers."""

import copy
import pickle

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import MultiCategoricalDistribution, make_proba_distribution
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_relax.policy_gradient.action_latents import to_latent, to_sample
from sb3_relax.policy_gradient.distribution_graphs import forget_graph
from sb3_relax.policy_gradient.several_categoricals import BatchedMultiCategoricalDistribution, in_one_batch

N = 6
SIZES = [[3, 5, 2], [2] * 7, [4, 4], [20] * 30, [1, 6], [40] * 20]
each_size = pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"{sizes[0]}x{len(sizes)}")


class Counting(TorchDispatchMode):
    """How many operations torch was asked for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def of_both(sizes, dtype):
    """SB3's distribution and ours of the same logits, which are two leaves."""
    th.manual_seed(0)
    logits = 2 * th.randn(N, sum(sizes), dtype=dtype)
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    theirs = MultiCategoricalDistribution(sizes)
    return [
        of.proba_distribution(leaf) for of, leaf in zip((theirs, in_one_batch(theirs)), leaves, strict=True)
    ], leaves


@each_size
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_it_is_sb3s(sizes, dtype):
    distributions, leaves = of_both(sizes, dtype)
    results, samples = [], []
    for of, leaf in zip(distributions, leaves, strict=True):
        th.manual_seed(1)
        samples.append([of.sample(), of.mode(), th.rand(2)])
        log_prob, entropy = of.log_prob(samples[0][0]), of.entropy()
        gradients = [th.autograd.grad(x.sum(), leaf, retain_graph=True)[0] for x in (log_prob, entropy)]
        probabilities = th.cat([part.probs for part in of.distribution], dim=-1)
        results.append([log_prob, entropy, *gradients, probabilities])
    assert type(distributions[1]) is BatchedMultiCategoricalDistribution
    assert all(map(th.equal, *samples))
    results[1][-1] = distributions[1].probabilities()
    tolerance = 1e-12 if dtype == th.float64 else 2e-5
    for theirs, ours in zip(*results, strict=True):
        assert th.allclose(theirs, ours, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("logit", [float("-inf"), -3e38], ids=str)
@pytest.mark.parametrize("sizes", [[3, 5, 2], [3, 3]], ids=str)
def test_values_that_are_never_drawn_are_torchs(sizes, logit):
    distributions, leaves = of_both(sizes, th.float32)
    results = []
    for of, leaf in zip(distributions, leaves, strict=True):
        with th.no_grad():
            leaf[:, 1] = logit
        of.proba_distribution(leaf)
        th.manual_seed(1)
        sample = of.sample()
        log_prob, entropy = of.log_prob(sample), of.entropy()
        gradients = [th.autograd.grad(x.sum(), leaf, retain_graph=True)[0] for x in (log_prob, entropy)]
        results.append([sample, of.mode(), log_prob, entropy, *gradients])
        results[-1].append(of.log_prob(th.ones(N, len(sizes))).detach())
    for theirs, ours in zip(*results, strict=True):
        assert th.allclose(theirs, ours, atol=2e-5)


def test_the_lowest_logits_leave_a_variable_its_own_values():
    distributions, leaves = of_both([3, 5, 2], th.float32)
    results = []
    for of, leaf in zip(distributions, leaves, strict=True):
        of.proba_distribution(leaf.detach().index_fill(1, th.tensor([8, 9]), th.finfo(th.float32).min))
        th.manual_seed(1)
        results.append([of.sample(), of.mode(), of.log_prob(of.mode())])
    for theirs, ours in zip(*results, strict=True):
        assert th.allclose(theirs, ours, atol=2e-5)


@each_size
def test_the_latent_is_the_one_of_sb3s(sizes):
    theirs, ours = (to_latent(of) for of in of_both(sizes, th.float64)[0])
    assert th.allclose(theirs.theta, ours.theta)
    assert (theirs.mask is None) == (ours.mask is None)
    assert theirs.mask is None or th.equal(theirs.mask, ours.mask)


@pytest.mark.parametrize("sizes", [lambda d: [2] * d, lambda d: [3, 5] * (d // 2)], ids=["alike", "unequal"])
def test_the_number_of_operations_does_not_grow_with_that_of_variables(sizes):
    counts = []
    for d in (600, 1200):
        of = in_one_batch(MultiCategoricalDistribution(sizes(d)))
        actions = th.zeros(1, d)
        with Counting() as counting:
            of.proba_distribution(th.zeros(1, sum(sizes(d))))
            of.log_prob(actions), of.entropy(), of.mode()
            latent = to_latent(of)
            to_sample(of, latent, actions), latent.log_prob(latent.sample())
        counts.append(counting.count)
    assert counts[0] == counts[1]


def test_others_stay_as_they_are():
    class Own(MultiCategoricalDistribution):
        pass

    for of in (make_proba_distribution(spaces.Discrete(3)), Own([2, 3])):
        assert in_one_batch(of) is of


def test_what_is_not_there_is_refused_where_torch_refuses_it(monkeypatch):
    monkeypatch.setattr(th.distributions.Distribution, "_validate_args", True)
    of = BatchedMultiCategoricalDistribution([3, 5, 2])
    with pytest.raises(ValueError, match="but found invalid values"):
        of.proba_distribution(th.zeros(1, 10).index_fill(1, th.tensor([4]), float("nan")))
    of.proba_distribution(th.zeros(1, 10))
    for action in ([3.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, -1.0, 0.0], [0.0, 0.5, 0.0]):
        with pytest.raises(ValueError, match=r"whole numbers from 0 to \[2, 4, 1\]"):
            of.log_prob(th.tensor([action]))
    monkeypatch.setattr(th.distributions.Distribution, "_validate_args", False)
    of.proba_distribution(th.full((1, 10), float("nan")))
    with pytest.raises(RuntimeError, match="probability tensor contains"):
        of.sample()


def test_copies_and_pickles_of_it_and_what_its_graph_held():
    of = of_both([3, 5, 2], th.float32)[0][1]
    of.entropy()
    forget_graph(of)
    for again in (copy.deepcopy(of), pickle.loads(pickle.dumps(of))):
        assert th.equal(again.entropy(), of.entropy())
        assert not again.entropy().requires_grad
        assert again.action_dims == [3, 5, 2]
