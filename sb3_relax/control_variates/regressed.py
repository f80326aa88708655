"""Control variates whose q(s, a) is fitted to the advantages of recent steps."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch as th

from sb3_relax.control_variates.base import ControlVariate
from sb3_relax.control_variates.learned import one_optimizer
from sb3_relax.control_variates.network import ScaledNetwork
from sb3_relax.control_variates.recent_steps import RecentSteps
from sb3_relax.control_variates.regression import descend_on
from sb3_relax.estimators import Estimate
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput


class RegressedControlVariate(ControlVariate):
    """A control variate with a network q(s, a) that is fitted by regression: E[(Â - q(s, a))²] over recent steps.

    Steps of earlier rollouts are kept with the Â that they had, so that q is that of the policies of late. A batch is
    kept, and learned from, after it was used. Subclasses say what the gradient is, and may fit more of theirs along.

    The attribute ``network`` is q, in the unit of Â. Steps are saved with ``save(..., exact=True)`` alone: any other
    agent that is loaded begins with none.

    :param network: q, of features ``[N, F]`` and flattened actions ``[..., N, A]`` → ``[..., N]``
    :param hyperparameters: ``n_cv_steps``
    """

    draws_noise = False

    def __init__(self, network: ScaledNetwork, hyperparameters: Hyperparameters):
        super().__init__()
        self.network = network
        self.n_steps = hyperparameters.n_cv_steps
        self.recent = RecentSteps()
        self.optimize()

    def optimize(self) -> None:
        """Make the optimizer, of all that is trained; its rate is set before every step."""
        self.trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.optimizer = one_optimizer(None, self.trained)

    def rows(self, output: PolicyOutput, signal: th.Tensor) -> tuple[th.Tensor, ...]:
        """What is kept of a batch, detached: features ``[N, F]``, flattened actions ``[N, A]``, and Â ``[N]``."""
        return output.features, output.sample.flatten(1), signal

    def loss(self, *rows: th.Tensor) -> th.Tensor:
        """What is descended on, of some rows as :meth:`rows` gave them: about 1 where nothing is explained."""
        features, action, signal = rows[:3]
        return ((signal - self.network(features, action)) / self.network.scale).square().mean()

    def fit(
        self, output: PolicyOutput, signal: th.Tensor, estimate: Estimate, generator: th.Generator
    ) -> dict[str, float]:
        rows = self.rows(output, signal)
        if all(bool(part.isfinite().all()) for part in rows):
            self.recent.add(*rows)
        draw = partial(self.recent.draw, generator)
        loss = descend_on(draw, self.loss, self.trained, self.optimizer, self.n_steps)
        return {} if loss is None else {"cv_loss": loss}

    def observe(self, estimate: Estimate) -> None:
        self.network.observe(estimate.value)

    def forget(self) -> None:
        self.recent = RecentSteps()

    def between_updates(self) -> Any:
        return {"recent": self.recent}

    def set_between_updates(self, state: Any) -> None:
        self.recent = state["recent"]
