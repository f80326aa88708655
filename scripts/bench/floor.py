"""The floor under an iteration: what environments, networks and one backward pass take without an algorithm around.

    python -m scripts.bench.floor [--repeats 25] [--output results]

An iteration is a rollout of 8 environments and one update. Its floor is what no implementation in torch and Python can
leave out: the environments' own steps; the two networks of ``MlpPolicy`` at every step, and V once more; one forward
and backward pass of both over the whole batch; and the arithmetic of RMSprop. Neither SB3's code nor this package's is
run for it, except for the environments in a ``DummyVecEnv`` with their ``Monitor``.

The floor's parts, an iteration of SB3's A2C and one of ours take turns in one process, on one thread. What is measured
is the process's CPU time, which on an idle machine is the wall-clock time, and on a busy one is disturbed less. Medians
over the turns are written down, and medians of the ratios within a turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional as F

from scripts.bench.algorithms import CASES, N_ENVS, TARGETS, build
from scripts.bench.turns import in_turns
from scripts.records import add_output, provenance, write_record

#: iterations of each in a turn
ITERATIONS = 20
RATE, ALPHA, EPSILON = 7e-4, 0.99, 1e-5

#: weights and biases, from the input up
Layers = Sequence[tuple[th.Tensor, th.Tensor]]


def through(x: th.Tensor, layers: Layers) -> th.Tensor:
    """A tanh network."""
    *hidden, (weight, bias) = layers
    for each, its_bias in hidden:
        x = F.linear(x, each, its_bias).tanh()
    return F.linear(x, weight, bias)


class Floor:
    """The parts of the floor, one method each, for an agent's environments and networks of the sizes of its policy."""

    def __init__(self, model: A2C):
        assert isinstance(model.env, VecEnv)
        self.env, self.n_steps = model.env, model.n_steps
        self.actions = np.stack([self.env.action_space.sample() for _ in range(N_ENVS)])
        extractor = model.policy.mlp_extractor
        self.actor = self.layers_of([*extractor.policy_net, model.policy.action_net])
        self.critic = self.layers_of([*extractor.value_net, model.policy.value_net])
        self.weights = [part for layer in (*self.actor, *self.critic) for part in layer]
        self.squares = [th.zeros_like(weight) for weight in self.weights]
        inputs = self.actor[0][0].shape[1]
        self.seen, self.batch = th.randn(N_ENVS, inputs), th.randn(N_ENVS * self.n_steps, inputs)
        self.score, self.returns = th.randn(len(self.batch), len(self.actor[-1][1])), th.randn(len(self.batch), 1)

    @staticmethod
    def layers_of(modules: Sequence[th.nn.Module]) -> Layers:
        """Copies of the linear ones among modules."""
        return [
            (layer.weight.detach().clone().requires_grad_(), layer.bias.detach().clone().requires_grad_())
            for layer in modules
            if isinstance(layer, th.nn.Linear)
        ]

    def environments(self) -> None:
        for _ in range(self.n_steps):
            self.env.step(self.actions)

    @th.no_grad()
    def acting(self) -> None:
        for _ in range(self.n_steps):
            through(self.seen, self.actor)
            through(self.seen, self.critic)
        through(self.seen, self.critic)

    def backward(self) -> None:
        for weight in self.weights:
            weight.grad = None
        theta, values = through(self.batch, self.actor), through(self.batch, self.critic)
        th.autograd.backward([theta, F.mse_loss(values, self.returns)], [self.score, None])

    @th.no_grad()
    def optimizer(self) -> None:
        gradients = [weight.grad for weight in self.weights]
        th._foreach_mul_(self.squares, ALPHA)
        th._foreach_addcmul_(self.squares, gradients, gradients, value=1 - ALPHA)
        roots = th._foreach_sqrt(self.squares)
        th._foreach_add_(roots, EPSILON)
        th._foreach_addcdiv_(self.weights, gradients, roots, value=-RATE)


PARTS = ("environments", "acting", "backward", "optimizer")


def iteration_of(model: A2C, warm_up: int = 20) -> Callable[[], None]:
    """A rollout and an update, as ``learn()`` makes them, after so many."""
    model.learn(warm_up * model.n_steps * model.n_envs)
    _, callback = model._setup_learn(1, None)
    assert model.env is not None
    env = model.env

    def iteration() -> None:
        model.collect_rollouts(env, callback, model.rollout_buffer, model.n_steps)
        model.train()

    return iteration


def measure(name: str, n_steps: int, repeats: int) -> dict[str, Any]:
    """One row: microseconds of CPU time per iteration."""
    env_id, algorithm, kwargs = CASES[name]
    floor = Floor(build(A2C, env_id, n_steps))
    floor.env.reset()
    turns: dict[str, Callable[[], None]] = {part: getattr(floor, part) for part in PARTS}
    turns["a2c"] = iteration_of(build(A2C, env_id, n_steps))
    turns["ours"] = iteration_of(build(algorithm, env_id, n_steps, **kwargs))
    spent = {turn: 1e6 * seconds for turn, seconds in in_turns(turns, repeats, ITERATIONS).items()}
    sums = np.sum([spent[part] for part in PARTS], axis=0)
    return {
        "case": name,
        "env": env_id,
        "n_steps": n_steps,
        "microseconds": {turn: round(float(np.median(times)), 1) for turn, times in spent.items()},
        "floor": round(float(np.median(sums)), 1),
        "over_floor": {who: round(float(np.median(spent[who] / sums)), 3) for who in ("a2c", "ours")},
        "ours_over_a2c": round(float(np.median(spent["ours"] / spent["a2c"])), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    add_output(parser, "floor.json")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    pairs = [(name, n_steps) for name in CASES for n_steps in TARGETS]
    rows = [measure(name, n_steps, arguments.repeats) for name, n_steps in track(pairs, description="floor")]
    write_record(arguments.output / "floor.json", {"rows": rows, "n_envs": N_ENVS, "threads": 1, **provenance()})
    table = Table("case", "n_steps", *PARTS, "floor", "A2C ÷ floor", "ours ÷ floor", "ours ÷ A2C")
    for row in rows:
        parts = [f"{row['microseconds'][part]:.0f} µs" for part in PARTS]
        ratios = [f"{row['over_floor'][who]:.2f}" for who in ("a2c", "ours")]
        cells = [row["case"], str(row["n_steps"]), *parts, f"{row['floor']:.0f} µs", *ratios]
        table.add_row(*cells, f"{row['ours_over_a2c']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
