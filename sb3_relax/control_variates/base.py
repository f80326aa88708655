"""The contract of a control variate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch as th
from stable_baselines3.common.utils import update_learning_rate
from torch import nn

from sb3_relax.errors import UsageError
from sb3_relax.estimators import (
    ConditionedJoint,
    Estimate,
    Gaussian,
    GumbelOneHot,
    Joint,
    Latent,
    LogisticBernoulli,
    RelaxedLatent,
    ReparameterisedLatent,
)
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView
from sb3_relax.policy_gradient.rollout import Rollout


class ControlVariate(nn.Module, ABC):
    """What takes the place of A2C's Â ∂θ log π(a|s), and learns from every rollout. Override these; never ``train()``.

    ``train()`` calls, for every rollout: :meth:`prepare`; then, for every batch, :meth:`gradient`, :meth:`fit` and,
    once the policy has moved, :meth:`observe`.

    What must hold is that the mean of the gradient is the score function's, for every value of φ and every signal:
    E[ĝ | s] = E[Â ∂θ log π(a|s) | s]. It does where everything that is subtracted is fixed before the action is drawn,
    and what is subtracted with a mean has that mean added again. So :meth:`gradient` may use nothing that was fitted on
    the batch it is given, and :meth:`fit` comes after it.

    Parameters and buffers are saved with the agent, and so is ``optimizer`` where there is one.

    Example::

        class Nothing(ControlVariate):
            def gradient(self, output, signal, generator):
                return Reinforce().finish(output.latent, output.sample, signal)

        RELAXA2C("MlpPolicy", "CartPole-v1", control_variate=Nothing)
    """

    #: the latents it takes: ``GumbelOneHot`` for Discrete and MultiDiscrete, ``LogisticBernoulli`` for MultiBinary,
    #: ``RelaxedLatent`` for all three, ``Gaussian`` for Box, ``Joint`` for Dict and Tuple
    latents: tuple[type[Latent], ...] = (Latent,)
    #: whether :meth:`gradient` draws random numbers, so that two calls differ: ``False`` where none are, which spares
    #: :func:`~sb3_relax.diagnose.diagnose` repeated calls and changes nothing else
    draws_noise: bool = True
    #: whether :meth:`fit` differentiates the policy twice, which the fastest kernels cannot do
    needs_second_derivative: bool = False
    #: whether it rests on actions of different steps being drawn independently, given their states: then gSDE is
    #: refused whose noise lasts for several steps
    needs_fresh_noise: bool = False

    #: of φ; its rate follows ``cv_learning_rate``. ``None`` where φ is not trained by one
    optimizer: th.optim.Optimizer | None = None

    def __init__(self, view: PolicyView | None = None, hyperparameters: Hyperparameters | None = None):
        """Neither is kept: a control variate that needs them takes what it needs.

        :param view: of the policy
        :param hyperparameters: of the algorithm
        """
        super().__init__()

    def prepare(self, rollout: Rollout, generator: th.Generator) -> None:
        """Once per rollout, in time order, before any batch of it: scales, sums along trajectories.

        ``rollout.advantages`` and ``rollout.returns`` may be replaced here. What is put there is used in full, by the
        guard too: it is the signal of :meth:`gradient`, with and without the control variate.

        :param rollout: before any update of the policy that acted in it
        :param generator: of all noise that is drawn here
        """

    @abstractmethod
    def gradient(self, output: PolicyOutput, signal: th.Tensor, generator: th.Generator) -> Estimate:
        """ĝ per step, at the parameters of the action distribution.

        :param output: a pass of the policy over N steps
        :param signal: Â, ``[N]``
        :param generator: of all noise that is drawn here
        :return: an estimate whose ``value`` is the signal as it came, and that has a ``score``: the product of the two
            is what ĝ would be without the control variate, which the guard and the logged variances compare it with
        """

    def fit(
        self, output: PolicyOutput, signal: th.Tensor, estimate: Estimate, generator: th.Generator
    ) -> dict[str, float]:
        """Let φ learn from the batch, after it was used on it, and before the policy moves.

        :param estimate: what :meth:`gradient` gave for this batch
        :param generator: of all noise that is drawn here
        :return: what to log, by name
        """
        return {}

    def observe(self, estimate: Estimate) -> None:
        """Take statistics of a batch that is done with: scales, the share to trust.

        :param estimate: what :meth:`gradient` gave for it
        """

    def forget(self) -> None:
        """Drop what is kept of earlier steps: another policy has been put into the agent.

        What was learned stays, and goes on from there.

        :raises UsageError: for a policy that this control variate does not take
        """

    def set_learning_rate(self, rate: float) -> None:
        """φ's rate from now on."""
        if self.optimizer is not None:
            update_learning_rate(self.optimizer, rate)

    def between_updates(self) -> Any:
        """What the next update needs and the state dict does not have, for ``save(..., exact=True)``; picklable."""
        return None

    def set_between_updates(self, state: Any) -> None:
        """:param state: of :meth:`between_updates`, with its tensors on the policy's device"""


def checked_gradient(
    control_variate: ControlVariate, output: PolicyOutput, signal: th.Tensor, generator: th.Generator
) -> Estimate:
    """:meth:`ControlVariate.gradient`, by whoever uses a control variate that may be a user's own.

    :raises TypeError: for what cannot be compared with A2C's score term, naming what to give
    """
    estimate: Any = control_variate.gradient(output, signal, generator)
    if not isinstance(estimate, Estimate) or estimate.score is None:
        given = "" if isinstance(estimate, Estimate) else f"; it gave {estimate!r}"
        raise TypeError(
            f"{type(control_variate).__name__}.gradient() must give an Estimate with score=latent.score(sample), so "
            "that it can be compared with what it would be without the control variate, such as "
            f"Reinforce().finish(output.latent, output.sample, signal){given}"
        )
    return estimate


def checked_fit(
    control_variate: ControlVariate,
    output: PolicyOutput,
    signal: th.Tensor,
    estimate: Estimate,
    generator: th.Generator,
) -> dict[str, float]:
    """:meth:`ControlVariate.fit`, by whoever uses a control variate that may be a user's own.

    :raises TypeError: for what is no dict
    """
    log: Any = control_variate.fit(output, signal, estimate, generator)
    if not isinstance(log, dict):
        raise TypeError(
            f"{type(control_variate).__name__}.fit() must give a dict of what to log, by name: {{}} for nothing; it "
            f"gave {log!r}"
        )
    return log


#: what action spaces users know a latent by
SPACES: dict[Any, str] = {
    Gaussian: "Box",
    ReparameterisedLatent: "Box",
    GumbelOneHot: "Discrete and MultiDiscrete",
    LogisticBernoulli: "MultiBinary",
    RelaxedLatent: "Discrete, MultiDiscrete and MultiBinary",
    Joint: "Dict and Tuple",
    ConditionedJoint: "Dict and Tuple",
}


def require_actions(name: str, control_variate: ControlVariate, view: PolicyView) -> None:
    """That a control variate takes a policy's actions.

    :param name: of the control variate, as the user knows it
    :raises UsageError: naming the action spaces that it takes
    """
    if not isinstance(view.latent, control_variate.latents):
        accepted = [SPACES.get(kind, kind.__name__) for kind in control_variate.latents]
        raise UsageError(
            f"control_variate {name} takes {', '.join(accepted)} actions; those of this policy are "
            f"{view.policy.action_space}: use another one, or leave control_variate out"
        )
