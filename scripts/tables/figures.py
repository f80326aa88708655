"""The figures of README.md and docs/, from the records in scripts/results and nothing else.

    python -m scripts.tables.figures [--output docs/assets/figures]

``learning``
    README.md's: RELAXA2C, A2C with ĉ(s) and A2C.
``learning_ENV``
    All algorithms of an environment of scripts/protocols/learning.yml.
``table2_ENV``
    The paper's Figure 4.
``vae_DATASET_MODEL``
    The paper's Figure 3.
``variates_ENV``
    Every control variate of scripts/protocols/variates.yml.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from scripts.records import RESULTS
from scripts.tables import figure3, figure4, learning_curves
from scripts.tables.drawing import save
from scripts.tables.learning import grouped
from scripts.tables.table2 import table2_groups
from scripts.tables.vae import finished
from scripts.tables.variates import variates_figures


def figures() -> dict[str, Figure]:
    """Name → figure."""
    learning = grouped("learning")
    made = {"learning": learning_curves.three_curves(learning)}
    made |= {f"learning_{env}": learning_curves.all_curves(env, of) for env, of in learning.items()}
    made |= {f"table2_{env}": figure4.draw(env, of) for env, of in table2_groups().items()}
    for column, of in finished(RESULTS / "vae").items():
        if any(name in of for name in figure3.NAMES):
            made["_".join(("vae", *column))] = figure3.draw(column, of)
    return made | variates_figures()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/assets/figures"))
    arguments = parser.parse_args()
    save(figures(), arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()
