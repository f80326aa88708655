"""``python -m sb3_relax.compare --env ID``, and ``sb3-relax compare`` by way of it."""

import sys

from sb3_relax.compare.cli import main

if __name__ == "__main__":
    raise SystemExit(main(prog=sys.argv[0] if sys.argv[0].startswith("sb3-relax") else "python -m sb3_relax.compare"))
