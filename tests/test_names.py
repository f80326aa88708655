"""What ``sb3_relax`` offers under its own name."""

import subprocess
import sys

import sb3_relax
from sb3_relax.catalogue import CATALOGUE

OFFERED = """
import sys, sb3_relax
print(*dir(sb3_relax))
assert "stable_baselines3" not in sys.modules
"""


def test_classes_are_offered_before_they_are_loaded():
    """To whoever presses the tabulator key, and without loading SB3."""
    done = subprocess.run([sys.executable, "-c", OFFERED], capture_output=True, text=True, check=True)
    offered = done.stdout.split()
    assert {*CATALOGUE, *sb3_relax.__all__} <= {*offered}
    assert len(offered) == len({*offered})
