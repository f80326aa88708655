"""``python -m sb3_relax.diagnose --env ID``."""

from sb3_relax.diagnose.cli import main

if __name__ == "__main__":
    raise SystemExit(main(prog="python -m sb3_relax.diagnose"))
