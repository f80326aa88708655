"""What is in a picture: place and shape are guessed, a renderer with hard edges draws the guess, and f compares.

    python -m sb3_relax.tasks.renderer --estimator relax nvil --seeds 3 --calls 150000

Repeat the command to go on: runs that have a record are skipped, and one that was stopped or killed goes on from its
checkpoint. Other settings may share the folder. Written are OUTPUT/record.json, curves.png (the validation pictures
against calls of f), and for each run test pictures beside their reconstructions, in OUTPUT/pictures.

The table shows the mean IoU, intersection over union, over all calls (area) on validation pictures, IoU and the share
of right shapes at the end on test pictures, all of the likeliest guess, and the variance of the gradient at equal calls
of f over NVIL's, at two states of the run: after a tenth of it, and at its end.
"""

from __future__ import annotations

from sb3_relax.tasks import comparison
from sb3_relax.tasks.renderer.problem import Renderer


def main(arguments: list[str] | None = None) -> None:
    """Parse and run."""
    top = comparison.parser(Renderer, __doc__, {})
    comparison.run_command(Renderer, lambda config, _: Renderer(config), top, arguments)


if __name__ == "__main__":
    main()
