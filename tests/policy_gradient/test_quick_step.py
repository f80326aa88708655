"""A step without what torch does around it: torch's to the last bit, and its own where somebody listens."""

import copy

import pytest
import torch as th
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from sb3_relax import LAXA2C
from sb3_relax.policy_gradient.quick_step import take_step

A2CS = dict(lr=7e-4, alpha=0.99, eps=1e-5, weight_decay=0)

OPTIMIZERS = {
    "A2C's": lambda weights: th.optim.RMSprop(weights, foreach=True, **A2CS),
    "in groups of their own rates": lambda weights: th.optim.RMSprop(
        [{"params": weights[:1], "lr": 0.1}, {"params": weights[1:]}], foreach=True, **A2CS
    ),
    "φ's": lambda weights: th.optim.Adam(weights, lr=1e-3, fused=True),
    "decaying": lambda weights: th.optim.Adam(weights, lr=1e-3, weight_decay=0.1, maximize=True, fused=True),
    "with momentum": lambda weights: th.optim.RMSprop(weights, lr=1e-3, momentum=0.9, foreach=True),
    "centred": lambda weights: th.optim.RMSprop(weights, lr=1e-3, centered=True, foreach=True),
    "amsgrad": lambda weights: th.optim.Adam(weights, lr=1e-3, amsgrad=True, fused=True),
    "decoupled": lambda weights: th.optim.AdamW(weights, lr=1e-3, fused=True),
    "a tensor as its rate": lambda weights: th.optim.Adam(weights, lr=th.tensor(1e-3), fused=True),
    "plain": lambda weights: th.optim.SGD(weights, lr=0.1),
}


def network():
    th.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def backward(module, without=()):
    module.zero_grad()
    module(th.randn(5, 3)).square().sum().backward()
    for parameter in without:
        parameter.grad = None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_torchs_to_the_last_bit_and_so_is_what_is_saved(name):
    ours, theirs = network(), network()
    optimizers = [OPTIMIZERS[name](list(module.parameters())) for module in (ours, theirs)]
    for number in range(4):
        for module in (ours, theirs):
            th.manual_seed(number)
            backward(module, without=[module[0].bias] if number in (0, 2) else [])
        take_step(optimizers[0])
        optimizers[1].step()
        assert all(map(th.equal, ours.parameters(), theirs.parameters()))
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    assert states[0].keys() == states[1].keys()
    for index, state in states[1].items():
        assert state.keys() == states[0][index].keys()
        assert all(th.equal(th.as_tensor(value), th.as_tensor(states[0][index][key])) for key, value in state.items())


def test_a_group_without_gradients_is_left_out(monkeypatch):
    """And the others are stepped as quickly as they are without it."""
    ours, theirs = network(), network()
    optimizers = [
        th.optim.Adam([{"params": module[0].parameters()}, {"params": module[2].parameters()}], lr=0.1, fused=True)
        for module in (ours, theirs)
    ]
    for number in range(4):
        for module in (ours, theirs):
            th.manual_seed(number)
            backward(module, without=module[2].parameters() if number > 1 else [])
        optimizers[1].step()
        if number > 0:  # the first step makes the state
            monkeypatch.setattr(th.optim.Adam, "step", None)
        take_step(optimizers[0])
        monkeypatch.undo()
        assert all(map(th.equal, ours.parameters(), theirs.parameters()))


def test_weights_of_several_types_are_stepped():
    module = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1).double()])
    other = copy.deepcopy(module)
    for each, step in ((module, take_step), (other, th.optim.Adam.step)):
        optimizer = th.optim.Adam(each.parameters(), lr=0.1, fused=True)
        for _ in range(2):
            each.zero_grad()
            (each[0](th.ones(3)) + each[1](th.ones(3).double())).sum().backward()
            step(optimizer)
    assert all(map(th.equal, module.parameters(), other.parameters()))


@pytest.mark.parametrize("which", ["before", "after", "every optimizer", "replaced"])
def test_who_listens_to_an_optimizer_hears_its_steps(which):
    model = LAXA2C("MlpPolicy", "Pendulum-v1", n_steps=5).learn(5)
    heard, handle = [], None
    for optimizer in (model.policy.optimizer, model.control_variate.optimizer):

        def hears(*_, heard_of=optimizer):
            heard.append(type(heard_of))

        if which == "before":
            optimizer.register_step_pre_hook(hears)
        elif which == "after":
            optimizer.register_step_post_hook(hears)
        elif which == "replaced":
            optimizer.step = hears
    if which == "every optimizer":
        handle = register_optimizer_step_post_hook(lambda optimizer, *_: heard.append(type(optimizer)))
    try:
        model.train()
    finally:
        if handle is not None:
            handle.remove()
    assert set(heard) == {th.optim.RMSprop, th.optim.Adam}
