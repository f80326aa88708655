"""Every control variate by name, for constructors, tests and command lines."""

from __future__ import annotations

import copy
from collections.abc import Callable
from inspect import isclass
from typing import Any

from sb3_relax.control_variates.base import ControlVariate
from sb3_relax.control_variates.exact import ExactControlVariate
from sb3_relax.control_variates.from_estimator import FromEstimator
from sb3_relax.control_variates.lax import LAXControlVariate
from sb3_relax.control_variates.relax import RELAXControlVariate
from sb3_relax.control_variates.state_baseline import StateBaseline
from sb3_relax.errors import UsageError, unknown_name
from sb3_relax.estimators import Reinforce, TwoPhaseEstimator
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyView

#: makes a control variate for a policy
Maker = Callable[[PolicyView, Hyperparameters], Any]

#: name → what makes it. A new control variate's one line: every shared test finds it here
CONTROL_VARIATES: dict[str, Maker] = {
    "none": lambda view, hyperparameters: Reinforce(),
    "state": StateBaseline,
    "lax": LAXControlVariate,
    "relax": RELAXControlVariate,
    "exact": ExactControlVariate,
}


def make_control_variate(
    spec: str | type[TwoPhaseEstimator] | TwoPhaseEstimator | ControlVariate | Maker,
    view: PolicyView,
    hyperparameters: Hyperparameters,
) -> ControlVariate:
    """The control variate that an algorithm was given, of the policy's type and on its device.

    :param spec: a name of :data:`CONTROL_VARIATES`; a function of (view, hyperparameters) that makes a control variate
        or an estimator of the core, such as a class of control variates; an estimator's class, whose default parts are
        made to fit; or one already made, which is copied
    :raises UsageError: for an unknown name, a control variate that does not take the policy's actions, or an estimator
        that needs several of them
    :raises TypeError: for what makes neither
    """
    if isinstance(spec, str):
        if spec not in CONTROL_VARIATES:
            raise unknown_name("control_variate", spec, CONTROL_VARIATES)
        made: Any = CONTROL_VARIATES[spec](view, hyperparameters)
    elif isinstance(spec, (ControlVariate, TwoPhaseEstimator)):
        made = copy.deepcopy(spec)
    elif isclass(spec) and issubclass(spec, TwoPhaseEstimator):
        made = spec.make(view.latent)
    elif callable(spec):
        maker: Any = spec
        made = maker(view, hyperparameters)
    else:
        made = spec
    if isinstance(made, TwoPhaseEstimator):
        made = FromEstimator(made.to(view.device, view.dtype), view, hyperparameters)
    if not isinstance(made, ControlVariate):
        raise TypeError(
            "control_variate must be a name, a ControlVariate, a TwoPhaseEstimator, or a function of "
            f"(view, hyperparameters) that makes one of them; it made a {type(made).__name__}"
        )
    if not isinstance(view.latent, made.latents):
        accepted = ", ".join(kind.__name__ for kind in made.latents)
        raise UsageError(
            f"control_variate {spec!r} takes {accepted}; the actions of this policy are a {type(view.latent).__name__}"
        )
    return made.to(view.device, dtype=view.dtype)
