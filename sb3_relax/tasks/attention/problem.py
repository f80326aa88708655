"""Where to look on a canvas, so that the digit is known: f is the cross-entropy of what was seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sb3_relax.estimators import Estimate, Estimator, GumbelOneHot, LayeredEstimate, layered
from sb3_relax.tasks.attention.canvases import CELLS, VIEW, Canvases, Digits, canvases, load_digits
from sb3_relax.tasks.attention.model import UNITS, Looker
from sb3_relax.tasks.problem import Config, Problem, estimator_for
from sb3_relax.tasks.settings import setting

#: what is known, ``[..., B, 64]``, and the sum of the entropies so far, ``[..., B]``
State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class AttentionConfig(Config):
    """The settings of hard attention."""

    learning_rate: float = setting(1e-2, "of θ's networks (Adam)")
    phi_learning_rate: float = setting(1e-3, "of φ, the control variate or the baseline (Adam)")
    dataset: str = setting("digits", "whose images are put on canvases; digits needs no download")
    glimpses: int = setting(1, "T, looks at a canvas before it is classified")
    entropy: float = setting(0.1, "weight of the entropy of each glimpse, in nats, which keeps all cells looked at")


class Attention(Problem):
    """E[f(b_1, …, b_T)] over the cells that are looked at, f the cross-entropy of the digit's class less the entropies.

    Glimpse t is one of 16 cells. Its distribution depends on the view, and on what earlier glimpses saw. The view, and
    that memory, are the context that control variates and baselines read. f has the classifier's weights, and, by the
    weighted entropies of all glimpses, it depends on θ.

    :param config: the settings
    :param digits: what is put on canvases, in the parts ``train``, ``validation`` and ``test``
    """

    name = "attention"
    config = AttentionConfig
    measures = ("accuracy", "hit_rate")
    model: Looker

    def __init__(self, config: AttentionConfig, digits: dict[str, Digits]):
        self.glimpses, self.entropy = config.glimpses, config.entropy
        self.digits = digits
        self.model = Looker(config.glimpses)

    @property
    def support(self) -> int:
        return CELLS**self.glimpses

    def estimators(self, name: str) -> nn.Module:
        """One for each glimpse, but for RLOO, whose samples are those of all glimpses."""
        if name == "exact" and self.glimpses > 1:
            raise ValueError(f"exact would visit {self.support:,} samples of {self.glimpses} glimpses: it takes one")
        context = VIEW * VIEW + (UNITS if self.glimpses > 1 else 0)
        latent = GumbelOneHot(torch.zeros(1, 1, CELLS))
        each = [estimator_for(name, latent, context) for _ in range(self.glimpses)]
        return each[0] if name == "rloo" or self.glimpses == 1 else nn.ModuleList(each)

    def batch(self, size: int, generator: torch.Generator) -> Canvases:
        train = self.digits["train"]
        return canvases(train, torch.randint(len(train.images), (size,), generator=generator), generator)

    def held_out(self, split: str) -> Canvases:
        """A canvas for each digit of a split."""
        digits = self.digits[split]
        return canvases(digits, torch.arange(len(digits.images)), torch.Generator().manual_seed(0))

    def start(self, batch: Canvases) -> State:
        """Nothing seen, and no entropy yet."""
        size = len(batch.view)
        return batch.view.new_zeros(size, UNITS), batch.view.new_zeros(size)

    def step(self, batch: Canvases, state: State, b: Tensor | None) -> tuple[GumbelOneHot, State]:
        """The latent of the next glimpse, and the state before it."""
        known, entropy = state
        if b is not None:
            known = self.model.look(batch.cells, known, b)
        context = batch.view
        if self.glimpses > 1:
            context = torch.cat([context.expand(*known.shape[:-1], -1), known], -1)
        latent = GumbelOneHot(self.model.locate(batch.view, known).unsqueeze(-2)).with_context(context)
        return latent, (known, entropy + latent.entropy())

    def f(self, batch: Canvases, state: State, *b: Tensor) -> Tensor:
        """The cross-entropy after the last glimpse, less the weighted entropies, ``[..., B]``."""
        known, entropy = state
        scores = self.scores(batch, known, b[-1]).log_softmax(-1)
        label = batch.label.expand(scores.shape[:-1]).unsqueeze(-1)
        return -scores.gather(-1, label).squeeze(-1) - self.entropy * entropy

    def scores(self, batch: Canvases, known: Tensor, b: Tensor) -> Tensor:
        """Logits of the classes after the last glimpse."""
        return self.model.classes(self.model.look(batch.cells, known, b))

    def estimate(
        self, estimators: nn.Module, batch: Canvases, generator: torch.Generator
    ) -> Estimate | LayeredEstimate:
        step, f = partial(self.step, batch), partial(self.f, batch)
        start = self.start(batch)
        if self.glimpses == 1:
            assert isinstance(estimators, Estimator)
            latent, state = step(start, None)
            # the estimator's own way of drawing, which may be cheaper than b first
            return estimators(latent, partial(f, state), generator)
        assert isinstance(estimators, (Estimator, nn.ModuleList))
        return layered([step] * self.glimpses, estimators, f, generator, state=start)  # type: ignore[arg-type]

    @torch.no_grad()
    def look_around(self, batch: Canvases, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cells that a sample looks at, ``[T, B]``, and the classes that it takes the digits for, ``[B]``."""
        state, b = self.start(batch), None
        looked_at = []
        for _ in range(self.glimpses):
            latent, state = self.step(batch, state, b)
            b = latent.sample(generator)
            looked_at.append(b.argmax(-1).squeeze(-1))
        assert b is not None
        return torch.stack(looked_at), self.scores(batch, state[0], b).argmax(-1)

    def measure(self, batch: Canvases, generator: torch.Generator) -> dict[str, float]:
        looked_at, seen = self.look_around(batch, generator)
        hit = (looked_at == batch.place).any(0)
        return {"accuracy": share(seen == batch.label), "hit_rate": share(hit)}

    def sampling_weights(self) -> Sequence[nn.Parameter]:
        """The locator's."""
        locator = [self.model.overview, self.model.place, *([self.model.recall] if self.glimpses > 1 else [])]
        return [weight for layer in locator for weight in layer.parameters()]

    def draw(self, path: Path) -> None:
        """Test canvases with the glimpses of a sample."""
        from sb3_relax.tasks.attention.figures import draw_glimpses

        first = Canvases(*(x[:24] for x in self.held_out("test")))
        draw_glimpses(path, first, *self.look_around(first, torch.Generator().manual_seed(0)))


def share(of: Tensor) -> float:
    """How many are true, of all."""
    return of.double().mean().item()


def make_attention(config: AttentionConfig, data_dir: Path | None, cache_dir: Path | None) -> Attention:
    """The problem with its data.

    :raises ValueError: for fewer glimpses than one, or a negative weight of the entropy
    """
    if config.glimpses < 1:
        raise ValueError(f"glimpses must be at least 1; got {config.glimpses}")
    if not 0 <= config.entropy < math.inf:
        raise ValueError(f"entropy must not be negative; got {config.entropy}")
    return Attention(config, loaded(config.dataset, data_dir, cache_dir))


#: runs of one command share the data
loaded = lru_cache(maxsize=1)(load_digits)
