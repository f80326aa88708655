"""Figure 3: training and validation ELBO against iterations, from the records of scripts/run/vae.py.

    python -m scripts.tables.figure3 [--output scripts/results/vae/figure3.png]

Table 1's five estimators, a panel for each data set and model; the mean of the seeds, and their range as a band.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scripts.tables.vae import LABELS, MODEL_LABELS, REBAR, VAE, Column, curve, finished

NAMES = ("concrete", "nvil", "muprop", REBAR, "relax")
#: of an axis: runs that fall back, or start, far below the others would flatten these
LOWEST_SHARE = 0.05


def draw(groups: dict[Column, dict[str, list[dict[str, Any]]]]) -> Figure:
    """Training above, validation below, a column for each data set and model."""
    figure = Figure(figsize=(4 * len(groups), 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(groups), squeeze=False, sharex="col")
    for place, ((dataset, model), of) in enumerate(groups.items()):
        for row, key in enumerate(("train_elbo", "validation_elbo")):
            axis, everything = axes[row][place], []
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
            if row == 0:
                axis.set_title(f"{dataset}, {MODEL_LABELS[model]}")
        axes[1][place].set_xlabel("iterations")
    axes[0][0].set_ylabel("training ELBO (nats)")
    axes[1][0].set_ylabel("validation ELBO (nats)")
    axes[0][0].legend(loc="lower right")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=VAE)
    parser.add_argument("--output", type=Path, default=VAE / "figure3.png")
    options = parser.parse_args()
    groups = {column: of for column, of in finished(options.records).items() if any(name in of for name in NAMES)}
    if not groups:
        parser.error(f"{options.records} holds no finished run: python -m scripts.run.vae makes them")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    draw(groups).savefig(options.output, dpi=75)
    print(options.output)


if __name__ == "__main__":
    main()
