"""Parameters as other versions and settings have them → as an algorithm's parts take them."""

from __future__ import annotations

from typing import Any

import torch as th

from sb3_relax.control_variates.guard import Guarded
from sb3_relax.errors import UsageError

#: what the parts of the control variate begin with, inside the guard
INSIDE_GUARD = "variate."
#: the guard's own statistics
OF_GUARD = ("cross", "square", "size")
#: what version 0.1 kept as a dict of numbers beside ĉ's weights
STATISTICS = "statistics._extra_state"


def fitted_to(model: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters that fit the model's own, as far as they are of the same control variate.

    Version 0.1 kept ĉ's weights without the names of the parts around them, and its statistics as numbers; with
    ``cv_action_dependent=False`` it had weights that were never used. A control variate saved with its guard loads into
    one without, and the other way round: the guard then starts without evidence. So do whole episodes, where the
    parameters are of an agent that updated every ``n_steps``.

    :param model: an algorithm whose parts have been made
    :param parameters: name → state dict, as ``get_parameters()`` gives them; left as it is
    :return: name → state dict
    :raises UsageError: for weights of a ĉ(a, s) where the model has a ĉ(s)
    """
    state = parameters.get("control_variate")
    if state is None:
        return parameters
    parameters = dict(parameters)
    own = model.control_variate.state_dict()
    state, statistics = _renamed(dict(state))
    has_steps = "expected_steps" in model.get_parameters()
    if not has_steps:
        parameters.pop("expected_steps", None)
    elif statistics is not None:
        parameters.setdefault("expected_steps", {"average": th.tensor(float(statistics["steps"]))})
    else:
        parameters.setdefault("expected_steps", model.expected_steps.state_dict())
    state = _with_guard(state, own, isinstance(model.control_variate, Guarded))
    parameters["control_variate"] = _without_actions(parameters, state, own)
    return parameters


def _renamed(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Version 0.1's names → today's, and its statistics where it is of that version."""
    statistics = state.pop(STATISTICS, None)
    if statistics is None:
        return state, None
    renamed = {f"{INSIDE_GUARD}network.{name}": value for name, value in state.items()}
    renamed[f"{INSIDE_GUARD}network.scale"] = th.tensor(float(statistics["scale"]))
    renamed[f"{INSIDE_GUARD}network.seen_batches"] = th.tensor(int(statistics["seen_batches"]))
    return renamed | {name: th.tensor(float(statistics[name])) for name in OF_GUARD}, statistics


def _with_guard(state: dict[str, Any], own: dict[str, Any], guarded: bool) -> dict[str, Any]:
    """With the guard's names where the model has one, and without where it has none."""
    is_guarded = {*OF_GUARD} <= {*state}
    if is_guarded == guarded:
        return state
    if guarded:
        return {f"{INSIDE_GUARD}{name}": value for name, value in state.items()} | {n: own[n] for n in OF_GUARD}
    return {name.removeprefix(INSIDE_GUARD): value for name, value in state.items() if name not in OF_GUARD}


def _without_actions(parameters: dict[str, Any], state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Without what a ĉ(s) of version 0.1 had of the actions, in ``parameters``' optimizer too."""
    unused = {name for name in state if name.endswith(("network.action_layer.weight", "network.log_temperature"))}
    unused -= {*own}
    (weight,) = [state[name] for name in unused if name.endswith("weight")] or [None]
    if weight is None:
        return state
    if weight.any():
        raise UsageError(
            "weights of a ĉ(a, s) cannot be loaded into a ĉ(s), which must not read the actions: set "
            "cv_action_dependent=True, or take the weights of an agent with cv_action_dependent=False"
        )
    if len(unused) > 1 and "cv_optimizer" in parameters:  # the temperature, the first that the optimizer stepped
        parameters["cv_optimizer"] = _without_first(parameters["cv_optimizer"])
    return {name: value for name, value in state.items() if name not in unused}


def _without_first(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state dict without its first parameter."""
    (group,) = optimizer["param_groups"]
    return {
        "state": {index - 1: of_parameter for index, of_parameter in optimizer["state"].items() if index > 0},
        "param_groups": [{**group, "params": group["params"][:-1]}],
    }
