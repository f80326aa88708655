"""Agents from their files without the code that these may run: tensors, plain JSON, and what the environment says.

An agent's file is Stable-Baselines3's: tensors, and settings in JSON. A setting that JSON has no form for is a pickle
there, which may run anything when it is read, and beside it stands a description in text. No such pickle is read here.
What it would have given is made of its description, by the tables below, or of the environment. What is neither must be
handed in.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from inspect import isclass, signature
from typing import Any, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.save_util import data_to_json
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.algorithm.saved_agents import checked_file, class_in, described_in, named, saver_in
from sb3_relax.catalogue import family_by_module
from sb3_relax.control_variates.registry import CONTROL_VARIATES
from sb3_relax.errors import NeedsTrust, UsageError
from sb3_relax.estimators.registry import ESTIMATORS
from sb3_relax.files import read_archive
from sb3_relax.policy_gradient.flat_actions import FlatActions
from sb3_relax.policy_gradient.update_rules.registry import UPDATE_RULES

SelfAlgorithm = TypeVar("SelfAlgorithm", bound=BaseAlgorithm)

#: what SB3 writes beside a pickle: its type, and itself
TYPE, PICKLE = ":type:", ":serialized:"
SPACES = ("observation_space", "action_space")
#: of a description of a space: its generator, and what it computes of the rest when it is asked
NOT_OF_THE_SPACE = {PICKLE, "_np_random", "low_repr", "high_repr"}

#: members of an agent's file that are text; the others of SB3's are tensors
TEXTS = {"data", "_stable_baselines3_version", "system_info.txt"}

#: attributes that setting the agent up, or ``learn()``, makes again
MADE_AGAIN = (
    "lr_schedule",
    "cv_lr_schedule",
    "_last_obs",
    "_last_original_obs",
    "_last_episode_starts",
    "_last_lstm_states",
    "ep_info_buffer",
    "ep_success_buffer",
)
#: of files of earlier versions, as a pickle; it begins anew, with a warning
NOISE = "noise_state"

#: classes that ``policy_kwargs`` may name, by the text that describes them: torch's activations and optimizers, and
#: SB3's features extractors
OF_POLICIES: dict[str, type] = {
    str(kind): kind
    for kind in (
        *(getattr(th.nn.modules.activation, name) for name in th.nn.modules.activation.__all__),
        *(kind for kind in vars(th.optim).values() if isclass(kind) and issubclass(kind, th.optim.Optimizer)),
        *(RMSpropTFLike, FlattenExtractor, NatureCNN, CombinedExtractor),
    )
}
#: the class that a function is a method of, in its text
OWNER = re.compile(r"<function ([\w.]+)\.\w+ at 0x")
#: a schedule in FloatSchedule's text
IN_TEXT = re.compile(r"(\w+)\(((?:\w+=[-+.\w]+(?:, )?)+)\)")


class _Unreadable(Exception):
    """Only code can make it again; the text says what it is."""


def load_without_code(
    kind: type[SelfAlgorithm],
    path: Any,
    env: GymEnv | None,
    custom_objects: dict[str, Any] | None = None,
    **kwargs: Any,
) -> SelfAlgorithm:
    """An agent of any of SB3's algorithms or ours, from its file, of which nothing is run.

    Ours do the same in ``load(path, env, weights_only=True)``.

    :param kind: the agent's class
    :param path: as its ``load()`` takes it
    :param env: as its ``load()`` takes it
    :param custom_objects: attribute → value, in the place of what the file has
    :param kwargs: of its ``load()``
    :raises NeedsTrust: (a ``ValueError``) naming what must be handed in
    :raises UsageError: (a ``ValueError``) for a damaged file, no environment, or one with other spaces

    Example::

        model = load_without_code(stable_baselines3.PPO, "ppo.zip", env)
    """
    if "weights_only" in signature(kind.load).parameters:
        return kind.load(path, env=env, custom_objects=custom_objects, weights_only=True, **kwargs)
    file = checked_file(path)
    env, objects = without_code(kind, file, env, custom_objects, kwargs, named(path))
    return kind.load(file, env=env, custom_objects=objects, **kwargs)


def without_code(
    kind: type[BaseAlgorithm],
    file: io.BytesIO,
    env: GymEnv | None,
    custom_objects: Mapping[str, Any] | None,
    given: Mapping[str, Any],
    name: Any,
) -> tuple[VecEnv | None, dict[str, Any]]:
    """What SB3's ``load()`` takes as ``env`` and ``custom_objects`` to read no pickle of a file.

    ``custom_objects`` has every field of the file, and SB3 reads none that is there.

    :param kind: the agent's class
    :param file: whole
    :param env: with the agent's spaces
    :param custom_objects: attribute → value, in the place of what the file has
    :param given: attributes that replace those of the file anyway
    :param name: of the file, for errors
    """
    described = described_in(file, name)
    if described is None:
        raise UsageError(f"{name} cannot be read as an agent's file (it holds no settings of one)")
    _require_own_class(kind, described, name)
    handed_in = {**{key: value for key, value in given.items() if key in described}, **(custom_objects or {})}
    made, unreadable = dict(handed_in), []
    if env is not None:
        verbose = described.get("verbose")
        env = kind._wrap_env(env, verbose if isinstance(verbose, int) else 0)  # as load() would
    for field, value in described.items():
        if field in handed_in:
            continue
        try:
            made[field] = _space(kind, field, value, env) if field in SPACES else _made(kind, field, value)
        except _Unreadable as what:
            unreadable.append(f"{field} ({what})")
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error
    if "env" in made:  # no algorithm saves it; load() would make one of a name, and import the module in that
        made["env"] = env
    if unreadable:
        raise NeedsTrust(_needs_trust(name, described, unreadable))
    if NOISE in described and NOISE not in handed_in and made[NOISE] is None:
        warnings.warn(
            f"{name} was saved by an earlier version, whose stream of the control variate's noise only code can read: "
            "it begins anew. What the agent does and learns from is the same on average",
            stacklevel=3,
        )
    return env, made


def of_tensors_and_settings(file: io.BytesIO, name: Any) -> io.BytesIO:
    """An agent's file with SB3's members alone, so that whatever reads others has nothing to read.

    :param file: whole
    :param name: of the file, for the warning that names what is left out
    """
    members = read_archive(file.getvalue())
    others = sorted(member for member in members if member not in TEXTS and not member.endswith(".pth"))
    if others:
        warnings.warn(f"{name} also has {', '.join(others)}, which weights_only=True leaves out", stacklevel=3)
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w") as archive:
        for member in members.keys() - {*others}:
            archive.writestr(member, members[member])
    return kept


def _require_own_class(kind: type[BaseAlgorithm], described: dict[str, Any], name: Any) -> None:
    """:raises UsageError: for an agent of a known class, of which policy or actions are none of this one's."""
    policy, saver = described.get("policy_class"), saver_in(described)
    if saver is None or saver in {f"{own.__module__.partition('.')[0]}.{own.__name__}" for own in kind.__mro__}:
        return
    assert policy is not None  # of which the class is known
    same_family = family_by_module(str(policy.get("__module__"))) == getattr(kind, "policy_base", None)
    takes = {space.__name__ for space in getattr(kind, "action_spaces", ())}
    if not same_family or (takes and class_in(described["action_space"]) not in takes):
        ours = saver.startswith("sb3_relax.")
        safely = f"{saver}.load(path, env, weights_only=True)" if ours else f"load_without_code({saver}, path, env)"
        raise UsageError(
            f"{name} holds an agent of {saver} ({_name_in(policy)}), which {kind.__name__} cannot load: use {safely}"
        )


def _needs_trust(name: Any, described: dict[str, Any], unreadable: list[str]) -> str:
    saver, first = saver_in(described), unreadable[0].partition(" ")[0]
    return (
        f"only code can read all of {name}, an agent of {saver or 'an unknown class'}, and strangers' files may run "
        f"any code: {'; '.join(unreadable)}. Hand in what is missing, as load(path, env, weights_only=True, "
        f"custom_objects={{{first!r}: ...}}) or, where you trust whoever made the file, load it without weights_only "
        "(on the command line, with --trust)"
    )


def _made(kind: type, field: str, value: Any) -> Any:
    """An attribute, of plain JSON or of the description of a pickle.

    :raises _Unreadable: where a description does not say what it is
    """
    if not _is_pickle(value):
        return value
    if field in MADE_AGAIN or field == NOISE:
        return None
    if field == "policy_kwargs":
        return _policy_kwargs(value)
    found = _class_of(value, _classes(kind, field))
    if found is None and "__module__" in value:
        raise _Unreadable(_name_in(value))
    return found if found is not None else _schedule(value)


def _is_pickle(value: Any) -> bool:
    """As SB3 tells it."""
    return isinstance(value, dict) and PICKLE in value


def _space(kind: type, field: str, value: Any, env: VecEnv | None) -> spaces.Space:
    """The environment's, which is that of the file as far as its description says.

    :raises UsageError: where it is not, or where there is none
    """
    if env is None:
        raise UsageError(
            "weights_only=True takes the spaces of observations and actions from an environment, and none was given: "
            "load(path, env, weights_only=True)"
        )
    space: spaces.Space = getattr(env, field)
    if field == "action_space" and FlatActions in getattr(kind, "action_spaces", ()):
        space = FlatActions.of(space)
    ours = json.loads(data_to_json({field: space}))[field]
    if _is_pickle(value):
        differing = [
            key for key in ours.keys() & value.keys() if key not in NOT_OF_THE_SPACE and ours[key] != value[key]
        ]
        if differing:
            theirs = ", ".join(f"{key.strip(':_')} {value[key]}" for key in sorted(differing))
            raise UsageError(
                f"the {field} of the agent is not that of the environment, which is {space}: it has {theirs}. Give the "
                f"environment that it was trained in, with its wrappers, or custom_objects={{{field!r}: ...}}"
            )
    return space


def _policy_kwargs(value: dict[str, Any]) -> dict[str, Any]:
    """A dict whose values are described one by one: plain, or text."""
    made = {}
    for key, said in value.items():
        if key not in (TYPE, PICKLE):
            if isinstance(said, str) and said not in OF_POLICIES:
                raise _Unreadable(f"{key}: {said}")
            made[key] = OF_POLICIES[said] if isinstance(said, str) else said
    return made


def _classes(kind: Any, field: str) -> Iterable[type]:
    """Those that an attribute may be."""
    if field == "policy_class":
        return kind.policy_aliases.values()
    if field == "rollout_buffer_class":
        return (*getattr(kind, "buffer_classes", ()), RolloutBuffer, DictRolloutBuffer)
    of_specs: dict[str, Mapping[str, Any]] = {
        "control_variate_spec": {**ESTIMATORS, **CONTROL_VARIATES},
        "update_rule_spec": UPDATE_RULES,
    }
    return [value for value in of_specs.get(field, {}).values() if isclass(value)]


def _class_of(value: dict[str, Any], known: Iterable[type]) -> type | None:
    """The class that a description is of, where it is a known one."""
    wanted = _identity(value)
    for kind in known:
        if wanted == _identity(json.loads(data_to_json({"": kind}))[""]):
            return kind
    return None


def _identity(value: dict[str, Any]) -> tuple[Any, Any]:
    """What tells a class from others in its description: its module, and the class that its methods are of.

    One without methods has its documentation in the place of that.
    """
    return value.get("__module__"), _owners(value) or value.get("__doc__")


def _owners(value: dict[str, Any]) -> list[str]:
    return sorted({owner for said in value.values() if isinstance(said, str) for owner in OWNER.findall(said)})


def _name_in(value: Any) -> str:
    """A class's name, as far as its description has it."""
    return ".".join(map(str, [value.get("__module__"), *_owners(value)]))


def _schedule(value: dict[str, Any]) -> Callable[[float], float]:
    """One of SB3's schedules, or rl_zoo3's.

    :raises _Unreadable: for anything else
    """
    kind = re.sub(r"<class '(.*)'>", r"\1", str(value.get(TYPE)))
    try:
        if kind == _of_sb3(FloatSchedule):
            name, arguments = IN_TEXT.fullmatch(value["value_schedule"]).groups()  # type: ignore[union-attr]
            inner: type = {"LinearSchedule": LinearSchedule, "ConstantSchedule": ConstantSchedule}[name]
            pairs = [argument.split("=") for argument in arguments.split(", ")]
            return FloatSchedule(inner(**{key: float(number) for key, number in pairs}))
        if kind == _of_sb3(LinearSchedule):
            return LinearSchedule(*(float(value[key]) for key in ("start", "end", "end_fraction")))
        if kind == _of_sb3(ConstantSchedule):
            return ConstantSchedule(float(value["val"]))
        if kind == "rl_zoo3.utils.SimpleLinearSchedule":
            return LinearSchedule(float(value["initial_value"]), 0.0, 1.0)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _Unreadable(kind) from error
    raise _Unreadable(kind)


def _of_sb3(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
