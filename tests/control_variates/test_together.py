"""Several control variates at once: the shares that suit all of them, and why later actions need none beside these."""

import numpy as np
import pytest
import torch as th

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.control_variates import StateBaseline, Together, TrajectoryByModel
from sb3_relax.control_variates.share import LearnedShare, LearnedShares
from sb3_relax.errors import UsageError
from sb3_relax.estimators.estimate import expand_to
from sb3_relax.policy_gradient import Hyperparameters
from tests.control_variates.test_trajectory import SPACES, STEPS, Process
from tests.helpers import ACTION_SPACES, TinyEnv, in_full


def test_the_shares_are_those_of_least_variance():
    """By a grid, for changes that overlap."""
    generator = th.Generator().manual_seed(0)
    plain = th.randn(200, 3, generator=generator, dtype=th.float64)
    changes = [-0.6 * plain + 0.5 * th.randn(200, 3, generator=generator) for _ in range(2)]
    learned = LearnedShares(2).double()
    assert learned.shares == [0.0, 0.0]
    learned.learn(plain, changes)
    grid = th.linspace(0, 1, 51, dtype=th.float64)
    left = th.stack([th.stack([(plain + a * changes[0] + b * changes[1]).square().mean() for b in grid]) for a in grid])
    best = divmod(int(left.argmin()), 51)
    assert learned.shares == pytest.approx([grid[i].item() for i in best], abs=0.03)
    # alone, each would be taken for more
    for change, share in zip(changes, learned.shares, strict=True):
        alone = LearnedShare().double()
        alone.learn_share(*(float((x * y).sum()) for x, y in ((plain, plain), (plain, change), (change, change))))
        assert alone.share > share + 0.1


def test_one_change_has_the_share_that_it_has_alone():
    plain, change = th.randn(50, 2), th.randn(50, 2) - 0.2
    several, alone = LearnedShares(1), LearnedShare()
    for scale in (1.0, 3.0, 0.01):
        g, d = scale * plain, scale * change - 0.1 * scale * plain
        several.learn(g, [d])
        alone.learn_share(*((x * y).sum().item() / 50 for x, y in ((g, g), (g, d), (d, d))))
    assert several.shares == pytest.approx([alone.share], rel=1e-4)
    assert alone.share > 0


@pytest.mark.parametrize("size", [1e20, 1e30, float("inf"), float("nan")])
def test_what_cannot_be_squared_takes_its_own_share_alone(size):
    """And has one again when it has spoken for itself again."""
    plain, learned, alone = th.randn(50, 2), LearnedShares(2), LearnedShares(1)
    useful = [-0.5 * plain + 0.2 * th.randn(50, 2) for _ in range(3)]
    learned.learn(plain, [useful[0], -plain])
    alone.learn(plain, [useful[0]])
    assert learned.shares[1] > 0.5
    for change in useful[1:]:
        learned.learn(plain, [change, size * plain])
        alone.learn(plain, [change])
        assert learned.shares == pytest.approx([alone.shares[0], 0.0])
    assert alone.shares[0] > 0.5
    learned.learn(plain, [0 * plain, -plain])
    assert learned.shares[1] > 0.1


def test_a_share_of_zero_lets_nothing_through():
    model = RELAXA2C("MlpPolicy", TinyEnv(ACTION_SPACES["discrete"]), control_variate="exact+state", device="cpu")
    variate = in_full(model)
    assert isinstance(variate, Together)
    with th.no_grad():
        for parameter in variate.parameters():
            parameter.fill_(float("nan"))
    output = model.view.evaluate(th.rand(4, 3), th.zeros(4, 1))
    estimate = variate.gradient(output, th.randn(4), model.noise_generator)
    assert th.equal(estimate.grad, estimate.score_term)


def test_each_part_learns_and_all_have_one_optimizer():
    name = "trajectory_variance+exact+state"
    model = RELAXA2C("MlpPolicy", TinyEnv(ACTION_SPACES["discrete"]), control_variate=name, device="cpu", n_steps=20)
    variate = in_full(model)
    before = {name: parameter.clone() for name, parameter in variate.named_parameters()}
    model.learn(60)
    own = variate.own_step
    assert {id(part.optimizer) for part in own.each} == {id(variate.optimizer)}
    weights = [weight for group in variate.optimizer.param_groups for weight in group["params"]]
    assert len(weights) == len({*map(id, weights)}) == len(before)
    assert not any(th.equal(before[name], parameter) for name, parameter in variate.named_parameters())
    logged = model.logger.name_to_value
    assert {
        f"train/cv_{key}_{part}" for key in ("share", "loss") for part in ("ExactControlVariate", "StateBaseline")
    } <= (logged.keys())
    assert "train/cv_loss" not in logged


def test_parts_of_one_class_are_told_apart():
    def twice(view, hyperparameters):
        return Together(view, hyperparameters, [StateBaseline(view, hyperparameters) for _ in range(2)])

    model = RELAXA2C("MlpPolicy", TinyEnv(ACTION_SPACES["discrete"]), control_variate=twice, device="cpu").learn(5)
    assert {"train/cv_loss_StateBaseline_0", "train/cv_loss_StateBaseline_1"} <= model.logger.name_to_value.keys()


@pytest.mark.parametrize("gae_lambda", [0.8, 1.0])
def test_what_later_actions_add_is_orthogonal_to_the_rest(gae_lambda):
    """E⟨d_l, d_o⟩ = 0 for every step, by enumeration: so shares that are fitted one by one are the joint ones."""
    process = Process(SPACES["discrete"], gae_lambda)
    own = RELAXA2C("MlpPolicy", process.model.env, control_variate="exact", cv_guard=False).control_variate
    variate = process.variate(own_step=own)
    rollout, probability, _ = process.rollout()
    plain = rollout.advantages
    generator = th.Generator().manual_seed(0)
    variate.prepare(rollout, generator)
    batch = rollout.batch(np.arange(rollout.values.size), th.float64)
    output = process.model.view.evaluate(batch.observations, batch.actions)
    estimate = variate.gradient(output, batch.advantages, generator)
    later = th.as_tensor((rollout.advantages - plain).T.ravel())
    of_later = expand_to(later, output.latent) * estimate.score
    of_own = estimate.grad - estimate.score_term
    product = (of_later * of_own).flatten(1).sum(1).detach().unflatten(0, (-1, STEPS))
    weight = th.as_tensor(probability).unsqueeze(1)
    assert (weight * product.abs()).sum(0)[:-1].min() > 1e-3
    assert (weight * product).sum(0).abs().max() < 1e-9
    # while a state baseline is not so
    state = StateBaseline(process.model.view, Hyperparameters())
    with th.no_grad():
        for parameter in state.parameters():
            parameter.copy_(th.randn_like(parameter))
    of_state = state.double().gradient(output, 0 * batch.advantages, generator).grad
    overlap = (of_state * of_own).flatten(1).sum(1).detach().unflatten(0, (-1, STEPS))
    assert (weight * overlap).sum(0).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("trajectory+trajectory", "may stand there once"),
        ("state+state", "may stand there once"),
        ("model+trajectory", r"may stand first alone, as in 'trajectory\+relax'"),
        ("trajectory_model+trajectory+relax", "may stand first alone"),
        ("trajectory+", "unknown control_variate ''"),
        ("+state", "unknown control_variate ''"),
        ("model+nothing", "unknown control_variate 'nothing'"),
        ("trajectory+nvil", "give its class alone, control_variate=NVIL"),
        ("nvil", "give its class, control_variate=NVIL"),
        ("trajectory+muprop", "MuProp asks for f at values of its own choice"),
    ],
)
def test_names_that_make_nothing(name, said):
    with pytest.raises(UsageError, match=said):
        RELAXA2C("MlpPolicy", TinyEnv(ACTION_SPACES["discrete"]), control_variate=name, device="cpu")


def test_a_part_that_does_not_take_the_actions_is_named():
    with pytest.raises(
        UsageError, match="RELAXControlVariate takes Discrete, MultiDiscrete and MultiBinary, Dict and Tuple actions"
    ):
        LAXA2C("MlpPolicy", TinyEnv(ACTION_SPACES["box"]), control_variate="state+relax", device="cpu")


def test_three_at_once():
    model = RELAXA2C(
        "MlpPolicy", TinyEnv(ACTION_SPACES["multibinary"]), control_variate="trajectory_model+model+state", device="cpu"
    ).learn(50)
    assert isinstance(in_full(model), TrajectoryByModel)
    assert [type(part).__name__ for part in in_full(model).own_step.each] == ["ModelBased", "StateBaseline"]
