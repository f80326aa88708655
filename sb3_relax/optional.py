"""Packages that may be missing: those of an extra, and those that a user names."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec

from sb3_relax.errors import UsageError


def how_to_install(extra: str) -> str:
    """The command that installs an extra.

    :param extra: its name in setup.cfg
    """
    return f"pip install 'sb3_relax[{extra}]' (in a clone: pip install '.[{extra}]')"


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
        raise ModuleNotFoundError(f"{', '.join(missing)} not installed: {how_to_install(extra)}", name=missing[0])


def import_packages(packages: Iterable[str], named_by: str = "--gym-packages") -> None:
    """Import what registers environments.

    :param packages: packages or modules
    :param named_by: the option that named them, for the error
    :raises UsageError: naming one that does not exist
    """
    for package in packages:
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{package}.".startswith(f"{error.name}."):
                raise  # exists, and lacks another
            raise UsageError(
                f"{named_by}: there is no package {package!r} that could be imported, neither installed nor in the "
                "current folder"
            ) from error
