"""What is compared: one entry of hyper-parameters in three ways, which differ by the control variate alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sb3_relax.errors import UsageError
from sb3_relax.files import write_whole
from sb3_relax.policy_gradient.hyperparameters import DiscreteHyperparameters, Hyperparameters
from sb3_relax.zoo.hyperparams import MATCHED
from sb3_relax.zoo.settings import read_yaml

#: hyper-parameters of a ĉ that reads the action
OF_ACTIONS = {"control_variate", "cv_action_dependent", *DiscreteHyperparameters.names()} - (
    {*Hyperparameters.names()} - {"control_variate", "cv_action_dependent"}
)
#: hyper-parameters of any ĉ
OF_ANY = OF_ACTIONS | {"n_cv_steps", *(name for name in Hyperparameters.names() if name.startswith("cv_"))}


class Arm(NamedTuple):
    """One side of the comparison."""

    name: str  #: of its files
    label: str  #: in the table and the plot
    algorithm: str  #: ``--algo``
    entry: dict[str, Any]  #: its hyper-parameters, as rl-zoo's files have them


def arms_of(algorithm: str, label: str, entry: Mapping[str, Any]) -> tuple[Arm, Arm, Arm]:
    """The algorithm, A2C with ĉ(s), and A2C, in this order.

    A2C with ĉ(s) tells what of a gain is the actions'; a baseline that reads the state alone could have the rest.

    :param algorithm: short name of one of ours
    :param label: its class's name
    :param entry: its hyper-parameters
    """

    def without(names: set[str]) -> dict[str, Any]:
        return {key: value for key, value in entry.items() if key not in names}

    state = {**without(OF_ACTIONS), "cv_action_dependent": False}
    # with masks, a memory or actions of several parts there is no a2c_matched
    matched = algorithm in MATCHED
    a2c = without(OF_ANY) if matched else {**without(OF_ANY), "control_variate": "none"}
    return (
        Arm(algorithm, label, algorithm, dict(entry)),
        Arm("state-baseline", "A2C with ĉ(s)", algorithm, state),
        Arm("a2c", "A2C", "a2c_matched" if matched else algorithm, a2c),
    )


def entry_file(arm: Arm, folder: Path) -> Path:
    """Where an arm's hyper-parameters are, in rl-zoo's format: ``--conf-file`` of ``sb3-relax train`` takes it."""
    return folder / f"{arm.name}.yml"


def keep_entries(arms: tuple[Arm, ...], env_id: str, folder: Path) -> None:
    """Write every arm's file, or find that those there say the same.

    :raises UsageError: where one says something else: its runs are not to be mixed with others
    """
    for arm in arms:
        file = entry_file(arm, folder)
        wanted = {env_id: arm.entry}
        if not file.is_file():
            how = f"# sb3-relax train --algo {arm.algorithm} --env {env_id} --conf-file {file.name}\n"
            # rl_zoo3 reads it in the machine's encoding
            write_whole(file, (how + yaml.safe_dump(wanted)).encode("ascii", "backslashreplace"))
        elif (there := read_yaml(file)) != wanted:
            raise UsageError(
                f"{folder} holds runs with other settings ({file.name} has {there}, and this command asks for "
                f"{wanted}): name another folder with --output, or remove that one"
            )
