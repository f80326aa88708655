"""Recall: each of several queries is a key of the memory, turned and disturbed, and its value is to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sb3_relax.estimators import NVIL, RELAX, Estimate, Estimator, GumbelOneHot, LayeredEstimate, PerVariable
from sb3_relax.tasks.problem import HIDDEN, Config, Problem, estimator_for
from sb3_relax.tasks.settings import key, setting
from sb3_relax.tasks.vae.images import grid

SLOTS, READS = 16, 6
#: numbers in a key, and signs in a value
KEY, VALUE = 8, 4
#: standard deviation of what is added to each number of a query; a key's is 1
NOISE = 0.5
#: elements of each split that is measured on
HELD_OUT = 2000
COSTS = ("each", "joint")


class Memories(NamedTuple):
    """A batch of B memories and what is asked of them.

    :param keys: ``[B, 16, 8]``, normal
    :param values: ``[B, 16, 4]``, signs
    :param queries: ``[B, 6, 8]``
    :param slots: the right one for each query, ``[B, 6]``
    """

    keys: Tensor
    values: Tensor
    queries: Tensor
    slots: Tensor


@dataclass(frozen=True)
class MemoryConfig(Config):
    """The settings of recall."""

    calls: int = setting(40_000, "of f in a run")
    costs: str = setting("each", "each: f tells what every read cost; joint: one number for all six")


def rotation() -> Tensor:
    """The turn between keys and queries, ``[8, 8]``, orthogonal: what is to be learned, and always the same."""
    return torch.linalg.qr(torch.randn(KEY, KEY, generator=torch.Generator().manual_seed(0))).Q


class Reader(nn.Module):
    """A query, by a tanh network 8-64-8, and its inner product with every key: the logits of the slots."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(KEY, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, KEY))

    def forward(self, batch: Memories) -> Tensor:
        return self.network(batch.queries) @ batch.keys.transpose(-1, -2)


class OfSlots(nn.Module):
    """Σ of weights times r(log p) over slots and reads: a slot is worth what its probability says.

    With the relaxed sample's weights it is RELAX's c(z, log p); with the probabilities as weights, NVIL's baseline.
    """

    def __init__(self) -> None:
        super().__init__()
        output = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(output.weight)
        self.worth = nn.Sequential(nn.Linear(1, HIDDEN), nn.Tanh(), output)

    def forward(self, weights: Tensor, log_p: Tensor) -> Tensor:
        """``[..., reads, 16]`` both → ``[...]``."""
        return (weights * self.worth(log_p.unsqueeze(-1)).squeeze(-1)).sum((-2, -1))


class OfRelaxedSample(OfSlots):
    """c(z, log p)."""

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        return super().forward(z.softmax(-1), context)


class OfProbabilities(OfSlots):
    """NVIL's C_ψ(log p)."""

    def forward(self, context: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(context.exp(), context)


class Memory(Problem):
    """E[f(b)] over six reads of sixteen slots, f the squared distance between what is read and the right values.

    f is a black box. It gives the sum over the reads, or, by ``costs``, what each read cost: then
    :class:`~sb3_relax.estimators.PerVariable` lets each read hear its own. The context is the log-probability of every
    slot.

    :param config: the settings
    """

    name = "memory"
    config = MemoryConfig
    measures = ("recall",)
    model: Reader

    def __init__(self, config: MemoryConfig):
        if config.costs not in COSTS:
            raise ValueError(f"costs must be one of {', '.join(COSTS)}; got {config.costs!r}")
        self.each = config.costs == "each"
        self.model = Reader()
        self.turn = rotation()

    @property
    def support(self) -> int:
        return SLOTS if self.each else SLOTS**READS

    def estimators(self, name: str) -> nn.Module:
        if name == "exact" and not self.each:
            raise ValueError(f"exact would visit {self.support:,} samples of six reads: it takes --costs each")
        estimator: Estimator
        if name == "relax":
            estimator = RELAX(OfRelaxedSample())
        elif name == "nvil":
            estimator = NVIL(OfProbabilities())
        else:
            estimator = estimator_for(name, GumbelOneHot(torch.zeros(1, 1 if self.each else READS, SLOTS)), SLOTS)
        # what f is, is known here: looking would be calls that nobody counts
        return PerVariable(estimator, check=False) if self.each else estimator

    def batch(self, size: int, generator: torch.Generator) -> Memories:
        keys = torch.randn(size, SLOTS, KEY, generator=generator)
        values = 2.0 * torch.randint(2, (size, SLOTS, VALUE), generator=generator) - 1
        slots = torch.randint(SLOTS, (size, READS), generator=generator)
        asked = keys.gather(1, slots.unsqueeze(-1).expand(-1, -1, KEY))
        noise = NOISE * torch.randn(size, READS, KEY, generator=generator)
        return Memories(keys, values, (asked + noise) @ self.turn, slots)

    def held_out(self, split: str) -> Memories:
        return self.batch(HELD_OUT, torch.Generator().manual_seed(key("memory", split)))

    def f(self, batch: Memories, b: Tensor) -> Tensor:
        """The cost of each read, ``[..., B, 6]``, or the sum of them, ``[..., B]``."""
        right = batch.values.gather(1, batch.slots.unsqueeze(-1).expand(-1, -1, VALUE))
        costs = (b @ batch.values - right).square().sum(-1)
        return costs if self.each else costs.sum(-1)

    def estimate(
        self, estimators: nn.Module, batch: Memories, generator: torch.Generator
    ) -> Estimate | LayeredEstimate:
        assert isinstance(estimators, Estimator)
        logits = self.model(batch)
        context = logits.log_softmax(-1)
        if self.each:  # an element of the batch for each read
            context = context.unsqueeze(-2)
        return estimators(GumbelOneHot(logits).with_context(context), partial(self.f, batch), generator)

    @torch.no_grad()
    def measure(self, batch: Memories, generator: torch.Generator) -> dict[str, float]:
        read = GumbelOneHot(self.model(batch)).sample(generator).argmax(-1)
        return {"recall": (read == batch.slots).double().mean().item()}

    def sampling_weights(self) -> Sequence[nn.Parameter]:
        return [*self.model.parameters()]

    @torch.no_grad()
    def draw(self, path: Path) -> None:
        """Probabilities of the slots for each read of a few test memories, and the right slots."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        count = 6
        batch = Memories(*(x[:count] for x in self.held_out("test")))
        sheet = grid(self.model(batch).softmax(-1).flatten(1), (READS, SLOTS), count)
        figure = Figure(figsize=(12, 12 * sheet.shape[0] / sheet.shape[1]))
        FigureCanvasAgg(figure)
        axis = figure.add_axes((0, 0, 1, 1))
        axis.axis("off")
        axis.imshow(sheet.numpy(), cmap="gray", vmin=0, vmax=1)
        left = (SLOTS + 1) * torch.arange(count).unsqueeze(-1)
        read = torch.arange(READS).expand(count, READS)
        axis.scatter((batch.slots + left).flatten(), read.flatten(), s=40, facecolors="none", edgecolors="C3")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
