"""Files of agents that somebody else may have made, read by rl_zoo3's commands without running what they say.

rl_zoo3 unpickles agents and statistics, and reads ``config.yml`` and ``args.yml`` with YAML's unsafe loader. What
:func:`~sb3_relax.zoo.registry.register` puts in the place of its functions, unless the user asks for ``--trust``, is
here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rl_zoo3.utils
import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_relax.algorithm.safe_load import OF_POLICIES, load_without_code
from sb3_relax.algorithm.vec_normalize import load_vec_normalize
from sb3_relax.errors import NeedsTrust, UsageError
from sb3_relax.files import OF_ARRAYS, NotWhole, read_pickle, require_numbers
from sb3_relax.zoo.entries import TRUST, require_known
from sb3_relax.zoo.settings import nodes_in

#: what ``enjoy`` uses of config.yml
USED = ("normalize", "env_wrapper", "vec_env_wrapper")

PYTHON = "tag:yaml.org,2002:python/"
#: of Python in what ``train`` writes: ordered dicts, tuples, and classes that policies are made with
HARMLESS = {
    f"{PYTHON}object/apply:collections.OrderedDict",
    f"{PYTHON}tuple",
    *(f"{PYTHON}name:{kind.__module__}.{kind.__qualname__}" for kind in OF_POLICIES.values()),
}
#: of YAML itself
PLAIN = {*yaml.SafeLoader.yaml_constructors, "tag:yaml.org,2002:merge"}

get_saved_hyperparams = rl_zoo3.utils.get_saved_hyperparams


class PlainVecNormalize:
    """SB3's ``VecNormalize``, of whose file nothing is run when it is loaded. What it makes is SB3's own."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return VecNormalize(*args, **kwargs)

    load = staticmethod(load_vec_normalize)


def require_plain_yaml(file: Path) -> None:
    """A YAML file asks for no Python but :data:`HARMLESS`.

    :raises NeedsTrust: naming what it asks for
    :raises UsageError: for what is no YAML, or asks for too much memory
    """
    for node in nodes_in(file):
        if node.tag not in PLAIN and node.tag not in HARMLESS:
            raise NeedsTrust(f"{file} would run Python when it is read ({node.tag.removeprefix(PYTHON)}); {TRUST}")


def checking_hyperparams(packages: Sequence[str]) -> Callable[..., tuple[dict[str, Any], str | None]]:
    """rl_zoo3's ``get_saved_hyperparams``, which looks at an agent's folder first.

    :param packages: modules that the user names, whose wrappers may be used
    """

    def checked(stats_path: str, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], str | None]:
        for name in ("config.yml", "args.yml"):
            file = Path(stats_path, name)
            if file.is_file():
                require_plain_yaml(file)
                entry = yaml.load(file.read_bytes(), Loader=yaml.UnsafeLoader)
                if not isinstance(entry, dict):
                    raise UsageError(f"{file} must have hyper-parameters by their names; it has {entry!r}")
                require_known(entry, packages, file, USED)
        found: tuple[dict[str, Any], str | None] = get_saved_hyperparams(stats_path, *args, **kwargs)
        return found

    return checked


def loading_plainly(kind: type[BaseAlgorithm], environments: Sequence[VecEnv]) -> type[BaseAlgorithm]:
    """An algorithm whose ``load()`` runs nothing of the file.

    :param kind: the algorithm, whose name it keeps
    :param environments: the last has the spaces where ``load()`` is given no environment
    """

    def load(path: Any, env: Any = None, **kwargs: Any) -> BaseAlgorithm:
        given = environments[-1] if env is None and environments else env
        return load_without_code(kind, path, given, **kwargs)

    return type(kind.__name__, (kind,), {"load": staticmethod(load), "__module__": kind.__module__})


def require_numbers_alone(file: Path) -> None:
    """A pickle of ``plot-eval`` has text, numbers and arrays of them alone.

    :raises NeedsTrust: naming what it would run besides
    :raises UsageError: for what is no pickle
    """
    try:
        said, names = read_pickle(file.read_bytes())
        if names <= OF_ARRAYS:
            require_numbers(said)
    except NotWhole as error:
        raise UsageError(f"{file} is not what sb3-relax plot-eval -o writes ({error})") from error
    if not names <= OF_ARRAYS:
        raise NeedsTrust(f"{file} would run {', '.join(sorted(names - OF_ARRAYS))} when it is read; {TRUST}")
