"""Gates before the features of a fitted classifier: few are to be open, and it is to be right all the same.

    python -m sb3_relax.tasks.gates
    python -m sb3_relax.tasks.gates --dataset breast_cancer --estimator relax nvil arms

Repeat the command to go on: runs that have a record are skipped, and one that was stopped or killed goes on from its
checkpoint. Other settings may share the folder. Written are OUTPUT/record.json, curves.png, and for each run a picture
of the gates' probabilities, in OUTPUT/pictures.

The table shows the mean score, 1 - f, over all calls (area) on validation rows. Then come, at the end and on test rows,
the score of gates that are drawn, that of their mode, the mode's accuracy, and the share of gates that it opens. Last
is the variance of the gradient at equal calls of f over NVIL's, at two states of the run: after a tenth of it, and at
its end.
"""

from __future__ import annotations

from sb3_relax.tasks import comparison
from sb3_relax.tasks.gates.problem import FeatureGates
from sb3_relax.tasks.gates.rows import DATASETS


def main(arguments: list[str] | None = None) -> None:
    """Parse and run."""
    top = comparison.parser(FeatureGates, __doc__, {"dataset": list(DATASETS)})
    comparison.run_command(FeatureGates, lambda config, _: FeatureGates(config), top, arguments)


if __name__ == "__main__":
    main()
