"""``python -m sb3_relax.zoo COMMAND ...``, the same as the console script ``sb3-relax``."""

from sb3_relax.zoo.cli import main

if __name__ == "__main__":
    main()
