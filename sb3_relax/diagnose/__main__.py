"""``python -m sb3_relax.diagnose --env ID``, and ``sb3-relax diagnose`` by way of it."""

import sys

from sb3_relax.diagnose.cli import main

if __name__ == "__main__":
    raise SystemExit(main(prog=sys.argv[0] if sys.argv[0].startswith("sb3-relax") else "python -m sb3_relax.diagnose"))
