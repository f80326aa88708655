"""A classifier of scikit-learn's, and features that are kept from it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sb3_relax.tasks.gates.rows import DATASETS, Rows, load_rows

#: copies of each row that the classifier is fitted to, each without other features
COPIES = 10
TREES, LEAF = 30, 2


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
def fitted(dataset: str) -> BlackBox:
    """The classifier of a data set; runs of one command share it."""
    return BlackBox(load_rows(dataset)["fit"])
