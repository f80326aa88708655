"""The split of a finite population, with every possible sample enumerated: unbiased to rounding."""

import itertools

import numpy as np
import pytest
import torch as th

from sb3_relax.diagnose import moments
from sb3_relax.diagnose.moments import Terms, removed_by_optimal_baseline, split

PAIR = range(2)
#: All four draws of two values for two actions.
DRAWS = list(itertools.product(PAIR, repeat=4))


class Population:
    """Two states alike in probability, two actions, two futures and two draws of noise of each; d = 2 at 3 weights."""

    def __init__(self):
        rng = np.random.default_rng(1)
        self.p = np.array([[0.3, 0.7], [0.6, 0.4]])  # of actions
        self.advantages = rng.normal(size=(2, 2, 2))
        self.correction = rng.normal(size=(2, 2, 2, 2))
        self.jacobian = rng.normal(size=(2, 2, 3))
        self.score = np.eye(2)[None] - self.p[:, None]  # ∂ log softmax

    def square(self, x, s):
        return float(np.square(x @ self.jacobian[s]).sum())

    def truth(self):
        """Each part by its definition."""
        mean = self.advantages.mean(2)[..., None] * self.score + self.correction.mean(2)  # E[ĝ | s, a]
        of_state = (self.p[..., None] * mean).sum(1)
        at_weights = np.stack([of_state[s] @ self.jacobian[s] for s in PAIR])
        parts = dict(future=0.0, noise=0.0, action=0.0, state=np.square(at_weights - at_weights.mean(0)).sum() / 2)
        removed = 0.0
        for s in PAIR:
            size = [self.square(self.score[s, a], s) for a in PAIR]
            for a in PAIR:
                spread = self.correction[s, a] - self.correction[s, a].mean(0)
                parts["future"] += self.p[s, a] * self.advantages[s, a].var() * size[a] / 2
                parts["noise"] += self.p[s, a] * np.mean([self.square(u, s) for u in spread]) / 2
                parts["action"] += self.p[s, a] * self.square(mean[s, a] - of_state[s], s) / 2
            removed += (self.p[s] * self.advantages[s].mean(1) * size).sum() ** 2 / (self.p[s] * size).sum() / 2
        return parts, removed

    def samples(self):
        """Every sample of one state with A = C = U = 2, as states of their own; their probabilities; E ĝ's square."""
        rows = [
            (s, a, c, u, self.p[s, a[0]] * self.p[s, a[1]] / 2 / len(DRAWS) ** 2)
            for s in PAIR
            for a in itertools.product(PAIR, repeat=2)
            for c in DRAWS
            for u in DRAWS
        ]
        advantages = [[[self.advantages[s, a[i], c[2 * i + j]] for j in PAIR] for i in PAIR] for s, a, c, _, _ in rows]
        correction = [[[self.correction[s, a[i], u[2 * i + j]] for j in PAIR] for i in PAIR] for s, a, _, u, _ in rows]
        score = [[self.score[s, each] for each in a] for s, a, *_ in rows]
        gram = self.jacobian @ self.jacobian.swapaxes(1, 2)
        fisher = np.einsum("sa,sai,saj->sij", self.p, self.score, self.score)
        states = [s for s, *_ in rows]
        probability = np.array([row[-1] for row in rows])
        mean = self.advantages.mean(2)[..., None] * self.score + self.correction.mean(2)
        square = np.square(np.einsum("sa,sai,sij->j", self.p, mean, self.jacobian) / 2).sum()
        tensors = [th.from_numpy(np.array(x)) for x in (advantages, score, correction, gram[states])]
        terms = Terms(*tensors, 0.0, np.arange(len(rows)))
        return terms, th.from_numpy(fisher[states]), probability, square


@pytest.fixture
def by_state(monkeypatch):
    """Each state's own estimate in the place of their mean, to be weighted by its probability."""
    monkeypatch.setattr(moments, "mean", lambda values, groups: values)


def test_every_part_is_unbiased(by_state):
    population = Population()
    truth, removed = population.truth()
    terms, fisher, probability, square = population.samples()
    assert probability.sum() == pytest.approx(1)
    found = {part: float(probability @ value) for part, value in split(terms)._asdict().items()}
    found["state"] -= square
    assert found == pytest.approx(truth, rel=1e-10)
    assert probability @ removed_by_optimal_baseline(terms, fisher) == pytest.approx(removed, rel=1e-10)
