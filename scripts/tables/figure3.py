"""The paper's Figure 3, one for each data set and model: training and validation ELBO against iterations.

Table 1's five estimators; the mean of the seeds, and their range as a band.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scripts.tables.drawing import in_thousands, one_legend, panels
from scripts.tables.vae import LABELS, MODEL_LABELS, REBAR, Column, curve

NAMES = ("concrete", "nvil", "muprop", REBAR, "relax")
#: of an axis: runs that fall back, or start, far below the others would flatten these
LOWEST_SHARE = 0.05


def draw(column: Column, of: dict[str, list[dict[str, Any]]]) -> Figure:
    """Training beside validation, for the estimators among :data:`NAMES` that ``of`` has."""
    dataset, model = column
    figure, axes = panels(2, height=4.2)
    for axis, key, quantity in zip(axes, ("train_elbo", "validation_elbo"), ("training", "validation"), strict=True):
        everything = []
        for color, name in enumerate(NAMES):
            if name not in of:
                continue
            budget = min(record["iterations"] for record in of[name])
            runs = [curve(record, key, budget) for record in of[name]]
            # runs are evaluated at the same iterations, longer ones at more
            shared = sorted(set.intersection(*({int(i) for i in iterations} for iterations, _ in runs)))
            elbos = np.array([[elbo[list(iterations).index(i)] for i in shared] for iterations, elbo in runs])
            axis.plot(shared, elbos.mean(0), label=LABELS[name], color=f"C{color}")
            axis.fill_between(shared, elbos.min(0), elbos.max(0), alpha=0.2, color=f"C{color}", linewidth=0)
            everything.append(elbos.ravel())
        values = np.concatenate(everything)
        low, high = np.quantile(values, LOWEST_SHARE), values.max()
        axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axis.set(xlabel="iterations", ylabel=f"{quantity} ELBO (nats)")
        in_thousands(axis)
    axes[0].set_title(f"{dataset}, {MODEL_LABELS[model]}", loc="left")
    one_legend(figure, axes[0], columns=len(NAMES))
    return figure
