"""Distributions made without torch's constructors are those that SB3 makes, in everything that they hold."""

import pytest
import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution

from sb3_relax.policy_gradient.quick_distributions import of_classes, of_numbers
from sb3_relax.policy_gradient.unchecked_distributions import unchecked_distributions


def pair(kind, dtype):
    """SB3's and the quick one, each of parameters of its own."""
    th.manual_seed(0)
    if kind == "classes":
        logits = [th.randn(6, 4, dtype=dtype).requires_grad_()]
        logits += [logits[0].detach().clone().requires_grad_()]
        kept = [CategoricalDistribution(4) for _ in range(2)]
        return kept[0].proba_distribution(logits[0]), of_classes(kept[1], logits[1]), [[x] for x in logits]
    first = [th.randn(6, 3, dtype=dtype).requires_grad_(), th.randn(3, dtype=dtype).requires_grad_()]
    second = [x.detach().clone().requires_grad_() for x in first]
    kept = [DiagGaussianDistribution(3) for _ in range(2)]
    return kept[0].proba_distribution(*first), of_numbers(kept[1], *second), [first, second]


@pytest.mark.parametrize("kind", ["classes", "numbers"])
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("checked", [False, True])
def test_all_that_they_hold_and_give_is_the_same(kind, dtype, checked):
    if checked:
        theirs, ours, leaves = pair(kind, dtype)
    else:
        with unchecked_distributions():
            theirs, ours, leaves = pair(kind, dtype)
    inner = [of.distribution for of in (theirs, ours)]
    assert type(inner[0]) is type(inner[1])
    held = [vars(of) for of in inner]
    assert held[0].keys() == held[1].keys()
    for name, value in held[0].items():
        assert th.equal(held[1][name], value) if isinstance(value, th.Tensor) else held[1][name] == value
    actions = theirs.sample().detach()  # those of numbers are attached
    for name in ("log_prob", "entropy", "mode"):
        a, b = (getattr(of, name)(*([actions] if name == "log_prob" else [])) for of in (theirs, ours))
        assert th.equal(a, b)
        if name != "mode":
            slopes = [
                th.autograd.grad(x.sum(), of, allow_unused=True, retain_graph=True)
                for x, of in zip((a, b), leaves, strict=True)
            ]
            assert all(x is y is None or th.equal(x, y) for x, y in zip(*slopes, strict=True))
    assert inner[1].expand([2, *inner[1].batch_shape]).batch_shape[0] == 2
    assert repr(inner[0]) == repr(inner[1])


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_where_torch_checks_arguments_it_does_so(kind, monkeypatch):
    monkeypatch.setattr(th.distributions.Distribution, "_validate_args", True)
    broken = th.full((2, 3), float("nan"))
    make = {
        "classes": lambda: of_classes(CategoricalDistribution(3), broken),
        "numbers": lambda: of_numbers(DiagGaussianDistribution(3), broken, th.zeros(3)),
    }[kind]
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        make()


def test_a_policy_whose_distribution_is_made_by_somebody_else_is_asked_itself():
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_relax import RELAXA2C

    model = RELAXA2C("MlpPolicy", make_vec_env("CartPole-v1", 2, seed=0), n_steps=4, seed=0)
    own, called = model.policy.action_dist.proba_distribution, []
    model.policy.action_dist.proba_distribution = lambda *args, **kwargs: called.append(1) or own(*args, **kwargs)
    model.learn(8)
    assert called
