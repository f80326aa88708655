"""Parameters as other versions and settings have them → as an algorithm's parts take them."""

from __future__ import annotations

from typing import Any

import torch as th

from sb3_relax.errors import ParametersDoNotFit
from sb3_relax.policy_gradient.observation_scale import has_scale

#: what the parts of the control variate begin with, inside the guard
INSIDE_GUARD = "variate."
#: the guard's own statistics
OF_GUARD = ("cross", "square", "size")
#: what version 0.1 kept as a dict of numbers beside ĉ's weights
STATISTICS = "statistics._extra_state"


def fitted_to(model: Any, parameters: dict[str, Any], exact_match: bool = True) -> dict[str, Any]:
    """Parameters that fit the model's own, as far as they are of the same control variate.

    Version 0.1 kept ĉ's weights without the names of the parts around them, and its statistics as numbers; with
    ``cv_action_dependent=False`` it had weights that were never used. A control variate saved with its guard loads into
    one without, and the other way round: the guard then starts without evidence. So does the temperature of a ĉ that
    had none (``correction="exact"``), and so do whole episodes, where the agent updated every ``n_steps`` (version 0.1
    noted the size of its batches there too, and that is where the average then starts). A natural gradient that was
    saved without an average of gradients begins one. ĉ of bits under masks once read whether each is 0 and whether it
    is 1: it is the same function of what it reads now, and Adam's averages of these weights begin anew.

    :param model: an algorithm whose parts have been made
    :param parameters: name → state dict, as ``get_parameters()`` gives them; left as it is
    :param exact_match: whether all of ĉ's weights must be there, and no others
    :return: name → state dict
    :raises ParametersDoNotFit: for weights of a ĉ(a, s) where the model has a ĉ(s), of another control variate, or of
        one of another size
    """
    state = parameters.get("control_variate")
    if state is None:
        return parameters
    parameters = dict(parameters)
    own = model.control_variate.state_dict()
    state, statistics = _renamed(dict(state))
    if model.expected_steps.longest is None:
        parameters.pop("expected_steps", None)
    elif statistics is not None:
        parameters.setdefault("expected_steps", {"average": th.tensor(float(statistics["steps"]))})
    else:
        parameters.setdefault("expected_steps", model.expected_steps.state_dict())
    if exact_match and ("update_rule" in parameters) != bool(model.update_rule.state_dict()):
        raise ParametersDoNotFit(
            "these are the parameters of an agent with another update rule, of which one has a state and the other has "
            "none: give it the update_rule of the agent that they are from"
        )
    parameters = _with_momentum(parameters, model.update_rule.state_dict())
    normalises = has_scale(parameters.get("policy", {}))
    if exact_match and normalises != has_scale(model.policy.state_dict()):
        raise ParametersDoNotFit(
            f"these are the parameters of an agent with normalize_observations={normalises}: give this one the same"
        )
    if exact_match and ("critic.optimizer" in parameters) != (model.critic.optimizer is not None):
        raise ParametersDoNotFit(
            "these are the parameters of an agent of which V's weights have an optimizer of their own where this "
            "agent's have none, or the other way round: give both a critic_learning_rate, or neither"
        )
    running = {
        "critic": ("normalize_returns=True", bool(model.critic.state_dict())),
        "advantage_scale": ('normalize_advantage="running"', model.normalize_advantage == "running"),
    }
    for part, (argument, has_part) in running.items():
        if exact_match and (part in parameters) != has_part:
            raise ParametersDoNotFit(
                f"these are the parameters of an agent with {argument} where this agent is without, or the other way "
                "round: give both the same"
            )
    state = _with_one_number_a_bit(parameters, _with_running_mean(_with_guard(state, own), own), own)
    state = _with_temperature(parameters, _without_actions(state, own), own)
    if exact_match and state.keys() != own.keys():
        names = ", ".join(sorted(state.keys() ^ own.keys()))
        raise ParametersDoNotFit(
            f"these are the weights of another control variate than this agent's (they differ in {names}): give it the "
            "control_variate, correction and cv_action_dependent of the agent that they are from"
        )
    others = [n for n in own if n in state and th.is_tensor(own[n]) and state[n].shape != own[n].shape]
    if others:
        raise ParametersDoNotFit(
            "these are the weights of a control variate of another size than this agent's ("
            + ", ".join(f"{name} is {list(state[name].shape)}, and here {list(own[name].shape)}" for name in others)
            + "): give it the spaces and the policy_kwargs of the agent that they are from. Of bits under masks, all "
            "but RELAX's, the exact correction and ĉ(s) once read two numbers a bit: train such an agent anew"
        )
    parameters["control_variate"] = state
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


def _with_momentum(parameters: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """With an average of gradients that begins anew, for a natural gradient that was saved before there was one."""
    saved, name = parameters.get("update_rule", {}), "momentum.steps"
    if name not in own or name in saved or "averages.steps" not in saved:
        return parameters
    return {**parameters, "update_rule": {**saved, name: th.zeros_like(own[name])}}


def _with_running_mean(state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """With a mean of f that begins anew, for an estimator of the core that was saved before it had one."""
    missing = [name for name in own if ".running_mean." in name and name not in state]
    return {**state, **{name: own[name] for name in missing}}


def _with_one_number_a_bit(parameters: dict[str, Any], state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """For what read 1 - b and b of every bit: w (1 - b) + v b = w + (v - w) b."""
    for name, weight in own.items():
        old = state.get(name)
        if not name.endswith("action_layer.weight") or old is None or old.shape[1] != 2 * weight.shape[1]:
            continue
        of_zero, of_one = old.reshape(len(old), -1, 2).unbind(-1)
        bias = name.replace("action_layer.weight", "state_layer.bias")
        state = {**state, name: of_one - of_zero, bias: state[bias] + of_zero.sum(1)}
        optimizer = parameters.get("cv_optimizer")
        if optimizer is not None:
            fits = {i: s for i, s in optimizer["state"].items() if s["exp_avg"].shape != old.shape}
            parameters["cv_optimizer"] = {**optimizer, "state": fits}
    return state


def _with_guard(state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """With the guard's names where the model has one, and without where it has none."""
    guarded, is_guarded = (
        any(name.startswith(INSIDE_GUARD) for name in names) or {*names} == {*OF_GUARD} for names in (own, state)
    )
    if guarded == is_guarded:
        return state
    if guarded:
        return {f"{INSIDE_GUARD}{name}": value for name, value in state.items()} | {n: own[n] for n in OF_GUARD}
    return {name.removeprefix(INSIDE_GUARD): value for name, value in state.items() if name not in OF_GUARD}


def _without_actions(state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Without the weights of the actions that a ĉ(s) of version 0.1 had, all of them zero."""
    name = next((name for name in state if name.endswith("network.action_layer.weight")), None)
    if name is None or name in own or not any(key.endswith("network.state_layer.weight") for key in own):
        return state
    if state[name].any():
        raise ParametersDoNotFit(
            "weights of a ĉ(a, s) cannot be loaded into a ĉ(s), which must not read the actions: set "
            "cv_action_dependent=True, or take the weights of an agent with cv_action_dependent=False"
        )
    return {key: value for key, value in state.items() if key != name}


def _with_temperature(parameters: dict[str, Any], state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """With a temperature where the model relaxes actions, and without where it does not; φ's optimizer alike."""
    ours, theirs = (next((n for n in names if n.endswith("network.log_temperature")), None) for names in (own, state))
    if ours == theirs or not any(name.endswith("network.state_layer.weight") for name in own):
        return state
    optimizer = parameters.get("cv_optimizer")
    if optimizer is not None:  # the temperature is the first parameter that it steps
        parameters["cv_optimizer"] = _with_parameters_moved(optimizer, 1 if ours else -1)
    if ours is not None:
        return {**state, ours: own[ours]}
    return {name: value for name, value in state.items() if name != theirs}


def _with_parameters_moved(optimizer: dict[str, Any], by: int) -> dict[str, Any]:
    """An optimizer's state dict with a parameter that it knows nothing of before the others, or without the first."""
    (group,) = optimizer["param_groups"]
    return {
        "state": {index + by: of_parameter for index, of_parameter in optimizer["state"].items() if index + by >= 0},
        "param_groups": [{**group, "params": list(range(len(group["params"]) + by))}],
    }
