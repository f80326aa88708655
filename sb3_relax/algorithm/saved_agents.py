"""Whose a saved agent is: for the error where it is loaded as another class's, and to choose the class."""

from __future__ import annotations

import io
import json
import pathlib
import zipfile
from typing import Any

from stable_baselines3.common.save_util import load_from_zip_file, open_path

from sb3_relax.catalogue import family_by_module, family_of, takers_of_kinds
from sb3_relax.errors import UsageError
from sb3_relax.files import TORCH, NotWhole, read_archive


def checked_file(path: Any) -> io.BytesIO:
    """The content of an agent's file, found to be whole, and to ask for no more memory than agents do.

    :param path: as SB3's ``load()`` takes it
    :raises FileNotFoundError: where there is none
    :raises UsageError: for a damaged file or none of an agent
    """
    file = open_path(path, "r", suffix="zip")
    try:
        file.seek(0)
        content = file.read()
    finally:
        if isinstance(path, (str, pathlib.Path)):
            file.close()
    try:
        members = read_archive(content)
        if any(name.endswith(".pth") and not member.startswith(TORCH) for name, member in members.items()):
            raise NotWhole("its weights are not as torch writes them")
    except NotWhole as error:
        raise UsageError(f"{named(path)} cannot be read as an agent's file ({error})") from error
    return io.BytesIO(content)


def named(path: Any) -> Any:
    """How errors name a file."""
    return path if isinstance(path, (str, pathlib.Path)) else "the file"


def described_in(file: io.BytesIO, name: Any) -> dict[str, Any] | None:
    """The settings in an agent's file as JSON has them: pickles among them are text, and are not run.

    :param file: of :func:`checked_file`
    :param name: of the file, for errors
    :return: ``None`` where it has none
    :raises UsageError: for settings that are no JSON
    """
    with zipfile.ZipFile(file) as archive:
        content = archive.read("data") if "data" in archive.namelist() else b"null"
    try:
        described = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} cannot be read as an agent's file ({error})") from error
    return described if isinstance(described, dict) else None


def require_own_file(
    cls: Any, path: Any, custom_objects: dict[str, Any] | None, cv_action_dependent: bool | None = None
) -> None:
    """An agent's file that could not be loaded is this class's, as far as can be told from what it holds.

    :param cls: the algorithm whose ``load()`` failed
    :param path: as SB3's ``load()`` takes it
    :param cv_action_dependent: as it was to be loaded; ``None``: as saved
    :raises UsageError: for a damaged file or none of an agent, or naming the class that saved it, or the
        ``cv_action_dependent`` where that differs
    """
    file = named(path)
    try:
        data = load_from_zip_file(checked_file(path), device="cpu", custom_objects=custom_objects)[0]
    except (OSError, UsageError):  # no file, or one that may not be read: the error there was says so
        return
    except Exception as error:  # of zipfile, pickle, zlib or torch, by where the file is damaged
        raise UsageError(f"{file} cannot be read as an agent's file ({error})") from error
    if data is None:  # another's zip, or the rest of an agent's: its weights are zips too
        raise UsageError(f"{file} cannot be read as an agent's file (it holds no settings of one)")
    if not _is_agent(data):
        return
    policy, action_space, family = data["policy_class"], data["action_space"], family_of(data["policy_class"])
    same_spaces = family == cls.policy_base and isinstance(action_space, cls.action_spaces)
    if "cv_learning_rate" in data and same_spaces:
        saved = data.get("cv_action_dependent", True)
        if cv_action_dependent not in (None, saved):
            raise UsageError(
                f"{file} holds an agent with cv_action_dependent={saved}, whose ĉ cannot be loaded as one with "
                f"cv_action_dependent={cv_action_dependent}: leave it out"
            )
        return
    saver = _saver(data, family, {kind.__name__ for kind in type(action_space).__mro__})
    message = (
        f"{file} holds an agent of {saver or 'another class'} ({policy.__module__}.{policy.__name__}, {action_space}), "
        f"which {cls.__name__} cannot load: use "
        + (f"{saver}.load()" if saver else "load() of the class that it was saved from")
    )
    if saver and "cv_learning_rate" not in data and same_spaces:
        message += f". Its policy alone may serve: model.policy.load_state_dict({saver}.load(path).policy.state_dict())"
    raise UsageError(message)


def saver_of(path: Any) -> str | None:
    """The class that saved an agent's file, as ``"stable_baselines3.A2C"``, from what the file says in text.

    :param path: as SB3's ``load()`` takes it
    :return: ``None`` where the file cannot be read, or leaves it open
    """
    try:
        described = described_in(checked_file(path), named(path))
    except (OSError, UsageError):  # load() says what is wrong with the file
        return None
    return None if described is None else saver_in(described)


def saver_in(described: dict[str, Any]) -> str | None:
    """The same, of :func:`described_in`.

    A policy of a user's own counts as one of SB3's, since its description does not name its bases.
    """
    policy, action_space = (described.get(field) for field in ("policy_class", "action_space"))
    if not isinstance(policy, dict) or not isinstance(action_space, dict):
        return None
    return _saver(described, family_by_module(str(policy.get("__module__"))), {class_in(action_space)})


def class_in(value: dict[str, Any]) -> str:
    """The name of the class, without its module, of what a description is of."""
    return str(value.get(":type:")).rpartition(".")[2].rstrip("'>")


def _is_agent(data: dict[str, Any]) -> bool:
    """What tells the classes apart could be unpickled here."""
    return isinstance(data.get("policy_class"), type) and "action_space" in data


def _saver(data: dict[str, Any], family: str | None, actions: set[str]) -> str | None:
    """The class, by attributes that no other has; ``None`` where they leave it open.

    :param family: of its policy
    :param actions: names of its action space's class and that one's bases
    """
    if "cv_learning_rate" in data:
        found = takers_of_kinds(actions, family)
        return f"sb3_relax.{found[0]}" if found else None
    prefix = "" if family is None else family.removesuffix("ActorCriticPolicy")
    if "clip_range" in data:
        return f"sb3_contrib.{prefix}PPO" if prefix else "stable_baselines3.PPO"
    if "cg_max_steps" in data:
        return "sb3_contrib.TRPO"
    return "stable_baselines3.A2C" if "gae_lambda" in data and not prefix else None
