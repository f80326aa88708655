"""A classifier of scikit-learn's, rows that it is asked about, and features that are kept from it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

DATASETS = ("digits", "breast_cancer", "wine")
#: shares of the rows: what the classifier is fitted to, what gates learn from, and what is measured on
PARTS = {"fit": 0.4, "gates": 0.3, "validation": 0.1, "test": 0.2}
#: copies of each row that the classifier is fitted to, each without other features
COPIES = 10
TREES, LEAF = 30, 2


class Rows(NamedTuple):
    """Rows of a table.

    :param x: the features, ``[N, D]``, float64
    :param label: the class, ``[N]``
    """

    x: Tensor
    label: Tensor

    def at(self, index: Tensor) -> Rows:
        """Some of them."""
        return Rows(self.x[index], self.label[index])


def new_trees(seed: int = 0) -> Any:
    """An ensemble of extremely randomised trees, not yet fitted."""
    from sklearn.ensemble import ExtraTreesClassifier

    return ExtraTreesClassifier(TREES, min_samples_leaf=LEAF, random_state=seed)


class BlackBox:
    """Trees that were fitted to rows with features left out at random: a feature that is left out is at its mean.

    So the trees have met rows such as those that they are asked about. They give no derivative.

    :param rows: to fit to
    """

    def __init__(self, rows: Rows):
        x, label = rows.x.numpy(), rows.label.numpy()
        self.mean = x.mean(0)
        random = np.random.default_rng(0)
        share = random.random((COPIES * len(x), 1))  # of the features that a copy keeps, from none to all
        kept = random.random((COPIES * len(x), x.shape[1])) < share
        self.trees = new_trees().fit(self.without(np.tile(x, (COPIES, 1)), kept), np.tile(label, COPIES))

    def without(self, x: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Rows ``[N, D]`` with the features that are not kept, ``[N, D]`` or ``[D]``, at their means."""
        return np.where(kept, x, self.mean)

    def probabilities(self, rows: Rows, gates: Tensor) -> Tensor:
        """Of the classes, ``[..., C]``, as float32.

        :param rows: N of them
        :param gates: 1 for a feature that is kept, ``[..., N, D]``
        """
        kept = gates.detach().numpy() > 0.5
        x = self.without(np.broadcast_to(rows.x.numpy(), kept.shape), kept)
        return torch.from_numpy(self.of_rows(x.reshape(-1, x.shape[-1])).reshape(*kept.shape[:-1], -1)).float()

    def of_rows(self, x: np.ndarray) -> np.ndarray:
        """``trees.predict_proba`` of complete rows, ``[N, D]`` → ``[N, C]``.

        Tree by tree, without the threads and checks that cost more than a small batch's own arithmetic.
        """
        x = x.astype(np.float32)
        trees = self.trees.estimators_
        return sum(tree.predict_proba(x, check_input=False) for tree in trees) / len(trees)


@lru_cache(maxsize=len(DATASETS))
def load_rows(dataset: str) -> dict[str, Rows]:
    """One of scikit-learn's tables in :data:`PARTS`, always the same; it needs no download."""
    from sklearn import datasets

    x, label = getattr(datasets, f"load_{dataset}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    ends = np.round(np.cumsum([0, *PARTS.values()]) * len(x)).astype(int)
    return {
        part: Rows(torch.from_numpy(x[order[start:end]]), torch.from_numpy(label[order[start:end]]).long())
        for part, start, end in zip(PARTS, ends[:-1], ends[1:], strict=True)
    }


@lru_cache(maxsize=len(DATASETS))
def fitted(dataset: str) -> BlackBox:
    """The classifier of a data set; runs of one command share it."""
    return BlackBox(load_rows(dataset)["fit"])
