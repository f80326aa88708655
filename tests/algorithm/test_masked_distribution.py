"""Masked actions in one batch are sb3-contrib's: probabilities, gradients, samples; in its policies and in ours."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy.stats import chi2

pytest.importorskip("sb3_contrib")
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.distributions import (
    MaskableBernoulliDistribution,
    MaskableMultiCategoricalDistribution,
    make_masked_proba_distribution,
)

from sb3_relax import MaskableRecurrentRELAXA2C, MaskableRELAXA2C
from sb3_relax.algorithm.masked_distribution import (
    SAME_STREAM,
    BatchedMaskableMultiCategoricalDistribution,
    MaskedBits,
    batched,
)
from sb3_relax.estimators import LogisticBernoulli
from sb3_relax.policy_gradient.action_latents import to_latent
from sb3_relax.policy_gradient.quick_forward import quick_evaluation, quick_passes
from tests.helpers import TinyEnv
from tests.policy_gradient.test_several_categoricals import SIZES, Counting, N

SPACES = [spaces.MultiDiscrete([3, 5, 2]), spaces.MultiBinary(4), spaces.MultiDiscrete([2, 2], start=[1, -1])]


class Masking(TinyEnv):
    """Half of all values are allowed, others at every step."""

    def action_masks(self):
        sizes = getattr(self.action_space, "nvec", [2] * self.action_space.shape[0])
        return np.concatenate([np.roll(np.arange(k) < (k + 1) // 2, self.total + i) for i, k in enumerate(sizes)])


def masks_of(sizes):
    """Random ones that leave something, but for one variable of one step."""
    rng = np.random.default_rng(0)
    masks = rng.random((N, sum(sizes))) < 0.6
    masks[:, np.cumsum(sizes) - 1] = True
    masks[0, : sizes[0]] = False
    return masks


def of_both(sizes, dtype, masks, made=MaskableMultiCategoricalDistribution):
    th.manual_seed(0)
    logits = 2 * th.randn(N, sum(sizes), dtype=dtype)
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    theirs = made(sizes)
    pair = [of.proba_distribution(leaf) for of, leaf in zip((theirs, batched(theirs)), leaves, strict=True)]
    for of in pair:
        of.apply_masking(masks)
    return pair, leaves


def everything(of, leaf, actions):
    log_prob, entropy = of.log_prob(actions), of.entropy()
    gradients = [th.autograd.grad(x.sum(), leaf, retain_graph=True)[0] for x in (log_prob, entropy)]
    return [log_prob, entropy, *gradients, th.cat([part.probs for part in of.distributions], dim=-1)]


def bits(sizes):
    """sb3-contrib's distribution of so many bits."""
    return MaskableBernoulliDistribution(len(sizes))


@pytest.mark.parametrize(
    ("sizes", "made"),
    [*((sizes, MaskableMultiCategoricalDistribution) for sizes in SIZES), *(([2] * d, bits) for d in (1, 5, 64))],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("kind", ["array", "numbers", None])
def test_it_is_sb3_contribs(sizes, made, dtype, kind):
    masks = {"array": masks_of(sizes), "numbers": th.as_tensor(masks_of(sizes), dtype=th.float32), None: None}[kind]
    pair, leaves = of_both(sizes, dtype, masks, made)
    assert isinstance(pair[1], MaskedBits) == (made is bits)
    samples = []
    for of in pair:
        th.manual_seed(1)
        samples.append([of.sample(), of.mode(), th.rand(2)])
    assert all(map(th.equal, *samples))
    theirs, ours = (everything(of, leaf, samples[0][0]) for of, leaf in zip(pair, leaves, strict=True))
    tolerance = 1e-12 if dtype == th.float64 else 2e-5
    # where nothing is allowed, their log p is what rounding has left of -1e8
    first = 0 if kind is None else 1
    for a, b in zip(theirs[:4], ours[:4], strict=True):
        assert th.allclose(a[first:], b[first:], atol=tolerance, rtol=tolerance)
    for a, b in ((theirs[1], ours[1]), (theirs[4], ours[4]), (theirs[4], pair[1].probabilities())):
        assert th.allclose(a, b, atol=tolerance, rtol=tolerance)
    for of in pair:
        of.apply_masking(None)
    theirs, ours = (everything(of, leaf, samples[0][0]) for of, leaf in zip(pair, leaves, strict=True))
    assert all(th.allclose(a, b, atol=tolerance, rtol=tolerance) for a, b in zip(theirs, ours, strict=True))


@pytest.mark.parametrize("masks", [None, np.ones((N, 10))], ids=["no masks", "masks that allow all"])
def test_values_that_are_never_drawn_are_torchs(masks):
    (theirs, ours), leaves = of_both([3, 5, 2], th.float32, None)
    for leaf in leaves:
        leaf.data[:, 1] = float("-inf")
    theirs.proba_distribution(leaves[0])
    ours.proba_distribution(leaves[1]).apply_masking(masks)  # sb3-contrib's entropy is NaN with a mask
    entropies = [of.entropy() for of in (theirs, ours)]
    gradients = [th.autograd.grad(entropy.sum(), leaf)[0] for entropy, leaf in zip(entropies, leaves, strict=True)]
    assert th.allclose(*entropies, atol=2e-5)
    assert th.allclose(*gradients, atol=2e-5)


@pytest.mark.parametrize("sizes", [size for size in SIZES if len(size) < 20], ids=str)
def test_the_latent_is_the_one_of_sb3_contribs(sizes):
    masks = masks_of(sizes)
    masks[0] = True
    theirs, ours = (to_latent(of) for of in of_both(sizes, th.float64, masks)[0])
    assert th.equal(theirs.mask, ours.mask)
    assert th.allclose(theirs.theta, ours.theta)
    with pytest.raises(ValueError, match="leaves a variable without any class"):
        to_latent(of_both(sizes, th.float64, masks_of(sizes))[0][1])


@pytest.mark.parametrize(
    ("sizes", "made"),
    [
        ([2] * 100, bits),
        ([2] * 100, MaskableMultiCategoricalDistribution),
        ([3, 5, 2] * 30, MaskableMultiCategoricalDistribution),
    ],
    ids=["bits", "pairs", "unequal"],
)
def test_many_variables_are_drawn_by_their_probabilities(sizes, made):
    assert len(sizes) > SAME_STREAM
    of = batched(made(sizes))
    masks = np.tile(np.arange(sum(sizes)) % 4 != 1, (2000, 1))
    masks[:, np.cumsum(sizes) - 1] = True
    th.manual_seed(0)
    of.proba_distribution(th.randn(sum(sizes)).expand(2000, -1))
    of.apply_masking(masks)
    drawn, expected = of.sample(), of.probabilities()[0]
    counts = th.cat([th.bincount(of_one, minlength=k) for of_one, k in zip(drawn.T, sizes, strict=True)])
    allowed = th.as_tensor(masks[0])
    assert counts[~allowed].sum() == 0
    distance = ((counts - 2000 * expected)[allowed] ** 2 / (2000 * expected[allowed])).sum()
    assert distance < chi2.ppf(1 - 1e-6, int(allowed.sum()) - len(sizes))


def test_a_bit_with_one_value_left_is_that_one_and_moves_nothing():
    """And the latent has bits' own relaxation, of the difference of two logits."""
    masks = np.array([[1, 1, 1, 0, 0, 1]] * 4)
    outputs = th.randn(4, 6, dtype=th.float64, requires_grad=True)
    of = batched(MaskableBernoulliDistribution(3)).proba_distribution(outputs)
    of.apply_masking(masks)
    latent = to_latent(of)
    assert isinstance(latent, LogisticBernoulli)
    assert th.equal(latent.theta[:, 0], outputs[:, 1] - outputs[:, 0])
    assert th.equal(latent.probs[:, 1:], th.tensor([[0.0, 1.0]] * 4))
    forced = th.tensor([[0.0, 0.0, 1.0]] * 4)
    free = latent.theta[:, 0]
    of_zero = -th.nn.functional.binary_cross_entropy_with_logits(free, th.zeros_like(free), reduction="none")
    assert th.equal(of.log_prob(forced), of_zero)
    assert (of.log_prob(1 - forced) < -1e8).all()
    (gradient,) = th.autograd.grad(of.entropy().sum() + of.log_prob(forced).square().sum(), outputs)
    assert (gradient[:, 2:] == 0).all()
    assert (gradient[:, :2] != 0).all()
    of.apply_masking(np.zeros((4, 6)))
    with pytest.raises(ValueError, match="leaves a variable without any class"):
        to_latent(of)


def test_the_number_of_operations_does_not_grow_with_that_of_variables():
    counts = []
    for d in (SAME_STREAM + 1, 800):
        of, outputs = batched(MaskableBernoulliDistribution(d)), th.zeros(8, 2 * d)
        masks = th.ones(8, 2 * d)
        with Counting() as counting:
            of.proba_distribution(outputs).apply_masking(masks)
            of.log_prob(of.sample()), of.entropy(), to_latent(of)
        counts.append(counting.count)
    assert counts[0] == counts[1]


def test_masks_of_other_sizes_are_refused():
    of = batched(MaskableMultiCategoricalDistribution([3, 5, 2])).proba_distribution(th.zeros(4, 10))
    for shape in ((4, 9), (1, 10), (5, 10), (8, 5, 2)):
        with pytest.raises(RuntimeError, match="shape"):
            of.apply_masking(np.ones(shape, dtype=bool))


def test_others_stay_as_they_are():
    class Own(MaskableMultiCategoricalDistribution):
        pass

    for of in (make_masked_proba_distribution(spaces.Discrete(3)), Own([2, 3])):
        assert batched(of) is of


@pytest.mark.parametrize("space", SPACES[:2], ids=str)
def test_sb3_contribs_algorithm_learns_alike_with_it(space):
    agents = []
    for change in (lambda of: of, batched):
        model = MaskablePPO("MlpPolicy", Masking(space), n_steps=16, batch_size=16, n_epochs=2, seed=0, device="cpu")
        model.policy.action_dist = change(model.policy.action_dist)
        agents.append(model.learn(64))
    assert isinstance(agents[1].policy.action_dist, BatchedMaskableMultiCategoricalDistribution)
    for a, b in zip(*(agent.policy.parameters() for agent in agents), strict=True):
        assert th.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_our_policies_have_it_and_pass_quickly_under_masks(space):
    env = Masking(space)
    model = MaskableRELAXA2C("MlpPolicy", env, seed=0, device="cpu").learn(30)
    policy, masks = model.policy, env.action_masks()
    assert isinstance(policy.action_dist, BatchedMaskableMultiCategoricalDistribution)
    observations = th.randn(1, 3)
    forward = quick_passes(policy).forward
    assert forward is not policy
    with th.no_grad():
        results = []
        for passes in (policy, forward):
            th.manual_seed(0)
            results.append(passes(observations, action_masks=masks))
        actions = results[0][0]
        *evaluated, _ = quick_evaluation(policy, observations, actions, action_masks=masks)
        assert all(map(th.equal, *results))
        assert all(map(th.equal, policy.evaluate_actions(observations, actions, masks), evaluated))
    heard = []
    policy.mlp_extractor.register_forward_hook(lambda *_: heard.append(1))
    assert quick_passes(policy).forward is policy
    recurrent = MaskableRecurrentRELAXA2C("MlpLstmPolicy", env, n_steps=8, seed=0, device="cpu").learn(16)
    assert isinstance(recurrent.policy.action_dist, BatchedMaskableMultiCategoricalDistribution)
