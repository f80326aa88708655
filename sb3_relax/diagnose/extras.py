"""What the diagnosis needs beyond the package's own dependencies."""

from __future__ import annotations

from importlib.util import find_spec


def require_extra(*modules: str) -> None:
    """Ask for what is missing before hours are spent, not after.

    :raises ModuleNotFoundError: saying what to install
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(f"the diagnosis needs {', '.join(missing)}: pip install sb3_relax[diagnose]")
