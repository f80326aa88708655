"""The core knows torch alone."""

import subprocess
import sys

BLOCKED = """
import sys
for name in ("stable_baselines3", "gymnasium", "sb3_contrib", "tensorboard"):
    sys.modules[name] = None
import sb3_relax.estimators
import sb3_relax
assert sb3_relax.__version__
try:
    sb3_relax.RELAXA2C
except ImportError:
    print("only the algorithms need SB3")
"""


def test_the_core_imports_with_sb3_blocked():
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "only the algorithms need SB3"
