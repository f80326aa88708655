"""Hard attention on canvases with a digit somewhere: a locator draws the cells that a classifier sees.

    python -m sb3_relax.tasks.attention --dataset mnist --estimator relax nvil --seeds 3 --calls 150000
    python -m sb3_relax.tasks.attention --glimpses 4

Repeat the command to go on: runs that have a record are skipped, and one that was stopped or killed goes on from its
checkpoint. Other settings may share the folder. Written are OUTPUT/record.json, curves.png (the validation canvases
against calls of f), and for each run a picture of where it looks on test canvases, in OUTPUT/pictures.

The table shows the mean accuracy over all calls (area) on validation canvases, accuracy and hit rate at the end on test
canvases, and the variance of the locator's gradient at equal calls of f over NVIL's, at two states of the run: after a
tenth of it, and at its end.
"""

from __future__ import annotations

from pathlib import Path

from sb3_relax.tasks import comparison
from sb3_relax.tasks.attention.problem import Attention, make_attention
from sb3_relax.tasks.vae.data import LABELS


def main(arguments: list[str] | None = None) -> None:
    """Parse and run."""
    top = comparison.parser(Attention, __doc__, {"dataset": list(LABELS)})
    top.add_argument("--data-dir", type=Path, help="with the data's files (default: SB3_RELAX_DATA, else downloads)")
    top.add_argument("--cache-dir", type=Path, help="for downloads (default: the system's folder for caches)")
    comparison.run_command(
        Attention, lambda config, options: make_attention(config, options.data_dir, options.cache_dir), top, arguments
    )


if __name__ == "__main__":
    main()
