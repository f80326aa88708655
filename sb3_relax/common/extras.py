"""Optional dependencies: a missing one names the extra that brings it."""

from __future__ import annotations

from importlib.util import find_spec


def require_extra(extra: str, *modules: str) -> None:
    """The modules of an extra are installed.

    :param extra: its name in setup.cfg
    :param modules: top-level modules, by the name they are imported by
    :raises ModuleNotFoundError: names what is missing and the command that installs it

    Example::

        require_extra("zoo", "rl_zoo3", "pandas")
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(
            f"{', '.join(missing)} not installed: pip install 'sb3_relax[{extra}]'", name=missing[0]
        )
