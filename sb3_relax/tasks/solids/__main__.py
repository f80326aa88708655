"""What is in a picture of a solid: place, size and shape are guessed, a ray tracer draws the guess, and f compares.

    python -m sb3_relax.tasks.solids --estimator relax nvil --seeds 3

Needs the extra mitsuba. First ten thousand scenes are rendered, which takes a quarter of a minute or so.

Repeat the command to go on: runs that have a record are skipped, and one that was stopped or killed goes on from its
checkpoint. Other settings may share the folder. Written are OUTPUT/record.json, curves.png (the validation pictures
against calls of f), and for each run test pictures beside their reconstructions, in OUTPUT/pictures.

The table shows the mean likeness over all calls (area) on validation pictures, likeness and the share of right shapes
at the end on test pictures, all of the likeliest guess, and the variance of the gradient at equal calls of f over
NVIL's, at two states of the run: after a tenth of it, and at its end.
"""

from __future__ import annotations

from sb3_relax.tasks import comparison
from sb3_relax.tasks.solids.problem import Solids


def main(arguments: list[str] | None = None) -> None:
    """Parse and run."""
    top = comparison.parser(Solids, __doc__, {})
    comparison.run_command(Solids, lambda config, _: Solids(config), top, arguments)


if __name__ == "__main__":
    main()
