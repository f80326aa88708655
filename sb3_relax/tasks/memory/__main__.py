"""A memory of sixteen slots that is read six times: a reader draws the slots, and pays for wrong values.

    python -m sb3_relax.tasks.memory --estimator relax nvil --costs each
    python -m sb3_relax.tasks.memory --estimator relax nvil --costs joint

Repeat the command to go on: runs that have a record are skipped, and one that was stopped or killed goes on from its
checkpoint. Other settings may share the folder. Written are OUTPUT/record.json, curves.png (recall against calls of
f), and for each run a picture of the slots' probabilities, in OUTPUT/pictures.

The table shows the mean recall over all calls (area) on validation memories, recall at the end on test memories, and
the variance of the reader's gradient at equal calls of f over NVIL's, at two states of the run: after a tenth of it,
and at its end.
"""

from __future__ import annotations

from sb3_relax.tasks import comparison
from sb3_relax.tasks.memory.problem import COSTS, Memory


def main(arguments: list[str] | None = None) -> None:
    """Parse and run."""
    top = comparison.parser(Memory, __doc__, {"costs": list(COSTS)})
    comparison.run_command(Memory, lambda config, _: Memory(config), top, arguments)


if __name__ == "__main__":
    main()
