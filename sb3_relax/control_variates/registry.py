"""Every control variate by name, for constructors, tests and command lines."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from inspect import isclass
from typing import Any

from sb3_relax.control_variates.base import ControlVariate, require_actions
from sb3_relax.control_variates.exact import ExactControlVariate
from sb3_relax.control_variates.factorised import Factorised
from sb3_relax.control_variates.from_estimator import FromEstimator
from sb3_relax.control_variates.lax import LAXControlVariate
from sb3_relax.control_variates.model_based import ModelBased
from sb3_relax.control_variates.q_prop import ConservativeQProp, QProp
from sb3_relax.control_variates.relax import RELAXControlVariate
from sb3_relax.control_variates.state_baseline import StateBaseline
from sb3_relax.control_variates.stein import QuadraticStein, QuadraticSteinByVariance, Stein
from sb3_relax.control_variates.together import Together
from sb3_relax.control_variates.trajectory import Trajectory
from sb3_relax.control_variates.trajectory_model import TrajectoryByModel
from sb3_relax.control_variates.trajectory_variance import TrajectoryByVariance
from sb3_relax.errors import UsageError, unknown_name
from sb3_relax.estimators import ESTIMATORS, Estimator, Reinforce, TwoPhaseEstimator
from sb3_relax.estimators.centred import CentredEstimator
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyView

#: makes a control variate for a policy
Maker = Callable[[PolicyView, Hyperparameters], Any]

#: those that take care of later actions, and may stand before another's name, which then takes care of the step's own
#: action: "trajectory+relax"
OF_LATER_ACTIONS: dict[str, type[Trajectory]] = {
    "trajectory": Trajectory,
    "trajectory_variance": TrajectoryByVariance,
    "trajectory_model": TrajectoryByModel,
}

#: name → what makes it. A new control variate's one line: every shared test finds it here
CONTROL_VARIATES: dict[str, Maker] = {
    "none": lambda view, hyperparameters: Reinforce(),
    "state": StateBaseline,
    "lax": LAXControlVariate,
    "relax": RELAXControlVariate,
    "exact": ExactControlVariate,
    "model": ModelBased,
    "qprop": QProp,
    "qprop_conservative": ConservativeQProp,
    "factorised": Factorised,
    "stein": Stein,
    "stein_quadratic": QuadraticStein,
    "stein_quadratic_variance": QuadraticSteinByVariance,
    **OF_LATER_ACTIONS,
}


WHAT_IT_MUST_BE = (
    "control_variate must be a name, a class of control variates, a TwoPhaseEstimator (or its class), or a function of "
    "(view, hyperparameters) that makes one of them"
)


def make_control_variate(
    spec: str | type[TwoPhaseEstimator] | TwoPhaseEstimator | Maker,
    view: PolicyView,
    hyperparameters: Hyperparameters,
) -> ControlVariate:
    """The control variate that an algorithm was given, of the policy's type and on its device.

    :param spec: a name of :data:`CONTROL_VARIATES`, or several with a plus between them, of which the first may be one
        of :data:`OF_LATER_ACTIONS` ("trajectory+relax", "model+state", "trajectory_model+model+state"); a function of
        (view, hyperparameters) that makes a control variate or an estimator of the core, such as a class of control
        variates; an estimator's class, whose default parts are made to fit; or an estimator already made, which is
        copied
    :raises UsageError: for an unknown name, a control variate that does not take the policy's actions, or an estimator
        that needs several of them
    :raises TypeError: for what makes neither
    """
    refuse_what_makes_none(spec)
    if isinstance(spec, str):
        made: Any = by_names(spec.split("+"), view, hyperparameters)
    elif isinstance(spec, TwoPhaseEstimator):
        made = copy.deepcopy(spec)
    elif isclass(spec) and issubclass(spec, TwoPhaseEstimator):
        # V centres Â
        made = spec.make(view.latent, **({"center": False} if issubclass(spec, CentredEstimator) else {}))
    else:
        maker: Any = spec
        made = maker(view, hyperparameters)
    made = as_control_variate(made, view, hyperparameters)
    if not isinstance(made, ControlVariate):
        raise TypeError(
            f"{WHAT_IT_MUST_BE}; it gave "
            + (f"the class {made.__name__}, not one made of it" if isclass(made) else f"a {type(made).__name__}")
        )
    require_actions(repr(spec), made, view)
    return made.to(view.device, dtype=view.dtype)


def by_names(names: Sequence[str], view: PolicyView, hyperparameters: Hyperparameters) -> Any:
    """What names of :data:`CONTROL_VARIATES` make together, those of the step's own action last."""
    first, *others = names
    if not others:
        return CONTROL_VARIATES[first](view, hyperparameters)
    if first in OF_LATER_ACTIONS:
        own_step = as_control_variate(by_names(others, view, hyperparameters), view, hyperparameters)
        return OF_LATER_ACTIONS[first](view, hyperparameters, own_step)
    parts = [as_control_variate(CONTROL_VARIATES[name](view, hyperparameters), view, hyperparameters) for name in names]
    return Together(view, hyperparameters, parts)


def as_control_variate(made: Any, view: PolicyView, hyperparameters: Hyperparameters) -> Any:
    """An estimator of the core as a control variate, and anything else as it is."""
    if isinstance(made, TwoPhaseEstimator):
        return FromEstimator(made.to(view.device, view.dtype), view, hyperparameters)
    return made


def refuse_what_makes_none(spec: Any) -> None:
    """What is known to make no control variate, before it is called.

    :raises UsageError: for an unknown name, a control variate of another policy, or an estimator that needs more of f
        than its value
    :raises TypeError: for another class, or what cannot be called
    """
    if isinstance(spec, str):
        refuse_names_that_make_none(spec.split("+"))
        return
    if isinstance(spec, ControlVariate):
        raise UsageError(
            f"a control variate belongs to the policy that it was made for: give the class {type(spec).__name__}, or a "
            "function of (view, hyperparameters) that makes one"
        )
    kind = spec if isclass(spec) else type(spec)
    if issubclass(kind, Estimator) and not issubclass(kind, TwoPhaseEstimator):
        raise UsageError(
            f"{kind.__name__} asks for f at values of its own choice, and an environment gives the advantage of the "
            "executed action alone: use an estimator that needs no more, such as Reinforce, NVIL, LAX, DLAX or RELAX"
        )
    if isclass(spec) and not issubclass(spec, (ControlVariate, TwoPhaseEstimator)):
        raise TypeError(f"{WHAT_IT_MUST_BE}; got the class {spec.__name__}")
    if not callable(spec):
        raise TypeError(f"{WHAT_IT_MUST_BE}; got {spec!r}")


def refuse_names_that_make_none(names: Sequence[str]) -> None:
    """Names that cannot stand together, or that are not of :data:`CONTROL_VARIATES`.

    :raises UsageError: naming what to give instead
    """
    for name in names:
        if name in CONTROL_VARIATES:
            continue
        if name not in ESTIMATORS:
            raise unknown_name("control_variate", name, CONTROL_VARIATES)
        of_the_core = ESTIMATORS[name]
        refuse_what_makes_none(of_the_core)
        alone = " alone" if len(names) > 1 else ""
        raise UsageError(
            f"{name!r} is an estimator of the core: give its class{alone}, control_variate={of_the_core.__name__}"
        )
    if len({*names}) < len(names) or any(name in OF_LATER_ACTIONS for name in names[1:]):
        raise UsageError(
            f"control_variate={'+'.join(names)!r} cannot be made: of several names each may stand there once, and one "
            f"of {', '.join(OF_LATER_ACTIONS)}, which take care of later actions, may stand first alone, as in "
            "'trajectory+relax'"
        )
