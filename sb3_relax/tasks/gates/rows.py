"""Rows of scikit-learn's tables, and their parts."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

DATASETS = ("digits", "breast_cancer", "wine")
#: shares of the rows: what the classifier is fitted to, what gates learn from, and what is measured on
PARTS = {"fit": 0.4, "gates": 0.3, "validation": 0.1, "test": 0.2}


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
