"""Gates before the features of a classifier that gives no derivative: few are to be open, and it is to be right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_relax.estimators import Estimate, Estimator, LayeredEstimate, LogisticBernoulli
from sb3_relax.tasks.gates.black_box import fitted
from sb3_relax.tasks.gates.rows import DATASETS, Rows, load_rows
from sb3_relax.tasks.problem import ARMS_SAMPLES, WITHOUT_EXACT, Config, Problem, estimator_for
from sb3_relax.tasks.settings import setting


@dataclass(frozen=True)
class GatesConfig(Config):
    """The settings of the gates."""

    calls: int = setting(100_000, "of f in a run")
    learning_rate: float = setting(0.3, "of the gates' logits (Adam)")
    phi_learning_rate: float = setting(0.01, "of φ, the control variate or the baseline, which is a network (Adam)")
    dataset: str = setting("digits", "of scikit-learn, whose features are chosen")
    cost: float = setting(0.01, "λ, of every gate that is open; the classifier's own cost is between 0 and 1")


class Gates(nn.Module):
    """A logit for each feature, the same for all rows: at the start every gate is open half of the time."""

    def __init__(self, features: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(features))

    def forward(self, size: int) -> LogisticBernoulli:
        """The gates of a batch of rows."""
        return LogisticBernoulli(self.logits.expand(size, -1))

    def mode(self) -> Tensor:
        """The gates at their likeliest, ``[D]``."""
        return (self.logits.detach() > 0).float()


class FeatureGates(Problem):
    """E[f(b)] over gates b ∈ {0, 1}^D and rows, f = ½ ‖p(row, b) - label‖² + λ |b|₀.

    p are the classifier's probabilities of the classes, where features behind closed gates are at their means, and the
    label is a one-hot: half of Brier's score, between 0 and 1. Every row of a batch has its own draw of the gates, and
    is one call of f. The context that control variates and baselines read is the row, standardised, and its label.

    :param config: the settings
    :raises ValueError: for an unknown data set, or a cost that is negative
    """

    name = "gates"
    config = GatesConfig
    cases: ClassVar[Mapping[str, str]] = {
        **WITHOUT_EXACT,
        "disarm": "two antithetic samples: two calls of f",
        "arms": f"{ARMS_SAMPLES} samples that exclude each other: {ARMS_SAMPLES} calls of f",
    }
    measures = ("score", "score_of_mode", "accuracy", "open_gates")
    model: Gates

    def __init__(self, config: GatesConfig):
        if config.dataset not in DATASETS:
            raise ValueError(f"dataset must be one of {', '.join(DATASETS)}; got {config.dataset!r}")
        if not 0 <= config.cost < math.inf:
            raise ValueError(f"cost must not be negative; got {config.cost}")
        self.dataset, self.cost = config.dataset, config.cost
        self.rows, self.classifier = load_rows(config.dataset), fitted(config.dataset)
        of_fit = self.rows["fit"]
        self.mean, self.scale = of_fit.x.mean(0), of_fit.x.std(0).clamp(min=1e-6)
        self.features, self.classes = of_fit.x.shape[1], int(of_fit.label.max()) + 1
        self.model = Gates(self.features)

    def estimators(self, name: str) -> nn.Module:
        if name not in self.cases:
            raise ValueError(f"the gates take {', '.join(self.cases)}; got {name!r}")
        return estimator_for(name, self.model(1), self.features + self.classes)

    def batch(self, size: int, generator: torch.Generator) -> Rows:
        rows = self.rows["gates"]
        return rows.at(torch.randint(len(rows.x), (size,), generator=generator))

    def held_out(self, split: str) -> Rows:
        return self.rows[split]

    def f(self, batch: Rows, b: Tensor) -> Tensor:
        """The cost of each row's gates, ``[..., B, D]`` → ``[..., B]``."""
        return self.brier(batch, self.classifier.probabilities(batch, b)) + self.cost * b.sum(-1)

    def brier(self, batch: Rows, p: Tensor) -> Tensor:
        """½ ‖p - label‖², of probabilities ``[..., B, C]``."""
        return 0.5 * (p - F.one_hot(batch.label, self.classes)).square().sum(-1)

    def estimate(self, estimators: nn.Module, batch: Rows, generator: torch.Generator) -> Estimate | LayeredEstimate:
        assert isinstance(estimators, Estimator)
        known = [(batch.x - self.mean) / self.scale, F.one_hot(batch.label, self.classes)]
        latent = self.model(len(batch.x)).with_context(torch.cat(known, -1).float())
        return estimators(latent, partial(self.f, batch), generator)

    @torch.no_grad()
    def measure(self, batch: Rows, generator: torch.Generator) -> dict[str, float]:
        """1 - f of a draw of the gates for each row, and of their mode; its accuracy; the share of gates that it opens.

        All but the first are means over the rows without noise.
        """
        drawn = self.f(batch, self.model(len(batch.x)).sample(generator))
        mode = self.model.mode()
        p = self.classifier.probabilities(batch, mode.expand(len(batch.x), -1))
        cost = self.brier(batch, p).mean() + self.cost * mode.sum()
        return {
            "score": 1 - drawn.mean().item(),
            "score_of_mode": 1 - cost.item(),
            "accuracy": (p.argmax(-1) == batch.label).double().mean().item(),
            "open_gates": mode.mean().item(),
        }

    @torch.no_grad()
    def outcome(self) -> dict[str, Any]:
        """The features whose gates are open in the mode, and E[f] of that mode over all rows that gates learn from."""
        mode, rows = self.model.mode(), self.rows["gates"]
        cost = self.f(rows, mode.expand(len(rows.x), -1)).double().mean().item()
        return {"features": mode.nonzero().flatten().tolist(), "cost_of_mode": cost}

    def sampling_weights(self) -> Sequence[nn.Parameter]:
        return [self.model.logits]

    @torch.no_grad()
    def draw(self, path: Path) -> None:
        """The probability of every gate to be open: as an image, where features are pixels, or as bars."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        p = self.model.logits.sigmoid()
        figure = Figure(figsize=(4, 4) if self.dataset == "digits" else (8, 3), layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        if self.dataset == "digits":
            axis.imshow(p.reshape(8, 8).numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        else:
            axis.bar(range(len(p)), p.numpy())
            axis.set(xlabel="feature", ylabel="p(open)", ylim=(0, 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
