"""Recall: its gradient by enumeration, its costs, and what is measured."""

import pytest
import torch

from sb3_relax.tasks.memory.problem import Memory, MemoryConfig
from sb3_relax.tasks.problem import CASES


def problem(**settings):
    torch.manual_seed(0)
    return Memory(MemoryConfig(**settings))


def gradients(model):
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def test_exact_is_the_gradient_of_the_expected_cost():
    memory = problem()
    batch = memory.batch(5, torch.Generator().manual_seed(0))
    p = memory.model(batch).softmax(-1)
    right = batch.values[torch.arange(5)[:, None], batch.slots]
    distance = (batch.values.unsqueeze(1) - right.unsqueeze(2)).square().sum(-1)
    (p * distance).sum((-2, -1)).mean().backward()
    expected = gradients(memory.model)
    memory.model.zero_grad()
    memory.estimate(memory.estimators("exact"), batch, torch.Generator()).backward()
    assert torch.allclose(gradients(memory.model), expected, atol=1e-5)


def test_the_joint_cost_is_the_sum():
    each, joint = problem(), problem(costs="joint")
    batch = each.batch(5, torch.Generator().manual_seed(0))
    b = torch.eye(16)[torch.randint(16, (2, 5, 6))]
    assert each.f(batch, b).shape == (2, 5, 6)
    assert torch.equal(each.f(batch, b).sum(-1), joint.f(batch, b))
    assert not joint.f(batch, torch.eye(16)[batch.slots]).any()


@pytest.mark.parametrize("costs", ["each", "joint"])
@pytest.mark.parametrize("name", CASES)
def test_every_estimator_trains_the_reader(name, costs):
    memory = problem(costs=costs)
    if name == "exact" and costs == "joint":
        with pytest.raises(ValueError, match="exact would visit 16,777,216 samples of six reads: it takes --costs"):
            memory.estimators(name)
        return
    batch = memory.batch(4, torch.Generator().manual_seed(0))
    estimators = memory.estimators(name)
    for _ in range(2):  # the baseline starts at 0, and so do the gradients of its first layer
        memory.model.zero_grad()
        memory.estimate(estimators, batch, torch.Generator().manual_seed(0)).backward()
        with torch.no_grad():
            for phi in estimators.parameters():
                phi -= 0.01 * phi.grad
    assert all(weight.grad.abs().sum() > 0 for weight in memory.model.parameters())
    assert all(phi.grad.abs().sum() > 0 for phi in estimators.parameters())


def test_recall_of_a_reader_that_knows_the_turn():
    memory = problem()
    batch = memory.held_out("test")
    memory.model = lambda batch: 1e4 * (batch.queries @ memory.turn.T @ batch.keys.transpose(1, 2) - norm(batch.keys))
    assert memory.measure(batch, torch.Generator())["recall"] > 0.9
    assert not torch.equal(batch.keys, memory.held_out("validation").keys)


def norm(keys):
    return keys.square().sum(-1).unsqueeze(1) / 2


def test_the_picture(tmp_path):
    problem().draw(tmp_path / "pictures" / "slots.png")
    assert (tmp_path / "pictures" / "slots.png").stat().st_size > 2000


def test_unknown_costs_are_refused():
    with pytest.raises(ValueError, match="costs must be one of each, joint; got 'all'"):
        problem(costs="all")
