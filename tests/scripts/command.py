"""Scripts as commands."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def script(name, *arguments, check=True, cwd=ROOT, root=ROOT):
    """``python -m scripts.NAME`` of the checkout ``root``, run in ``cwd``."""
    command = [sys.executable, "-m", f"scripts.{name}", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done
