"""Control variates whose φ descends on the variance of the gradient (Eq 6)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence

import torch as th

from sb3_relax.control_variates.base import ControlVariate
from sb3_relax.control_variates.network import AtStates, ControlVariateNetwork
from sb3_relax.estimators import Estimate, TwoPhaseEstimator
from sb3_relax.estimators.temperature import learned_temperature
from sb3_relax.policy_gradient.gradients import clear_gradients, give_gradients, parameters_of
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView
from sb3_relax.policy_gradient.quick_step import take_step


class LearnedControlVariate(ControlVariate):
    """A control variate with an optimizer of its own: ``n_cv_steps`` steps of Adam per update, on ``cv_objective``.

    Subclasses say what the gradient is; :meth:`fit` takes care of φ. The first step uses the estimate that the policy
    gets, the others draw noise of their own.

    :param view: of the policy
    :param hyperparameters: ``cv_learning_rate``, ``n_cv_steps``, ``cv_objective``
    """

    def __init__(self, view: PolicyView, hyperparameters: Hyperparameters):
        super().__init__()
        self.view = view
        self.n_steps = hyperparameters.n_cv_steps
        self.at_weights = self.needs_second_derivative = hyperparameters.cv_objective == "weights"

    def optimize(self, parameters: Iterable[th.nn.Parameter]) -> None:
        """Make the optimizer, of those parameters that are trained; its rate is set before every step."""
        self.optimizer = one_optimizer(None, list(parameters))

    def fit(
        self, output: PolicyOutput, signal: th.Tensor, estimate: Estimate, generator: th.Generator
    ) -> dict[str, float]:
        if self.optimizer is None:
            return {}
        phi = parameters_of(self.optimizer)
        log = {}
        for step in range(self.n_steps):
            again = estimate if step == 0 else self.gradient(output, signal, generator)
            objective = self.objective(again)
            if step == 0:
                log["cv_loss"] = again.moments.square_at(1) if objective is None else objective.item()
            gradients = self.phi_gradients(again, objective, phi)
            if not fits_adam(gradients):
                break  # φ stays as it is, and the policy goes on
            descend(self.optimizer, phi, gradients)
        return log

    def objective(self, estimate: Estimate) -> th.Tensor | None:
        """What φ descends on where it is not Eq 6 at the distribution's parameters.

        That is the estimator's own loss, where it has one, or else the square of ĝ at the policy's weights.
        """
        if estimate.phi_loss is not None:
            return estimate.phi_loss
        return self._square_at_weights(estimate) if self.at_weights else None

    def phi_gradients(
        self, estimate: Estimate, objective: th.Tensor | None, phi: Sequence[th.Tensor]
    ) -> Sequence[th.Tensor | None]:
        """The gradient of the objective, which reaches neither the policy nor the signal."""
        if objective is None:
            return estimate.phi_gradients(phi)
        return th.autograd.grad(objective, phi, retain_graph=True, allow_unused=True)

    def _square_at_weights(self, estimate: Estimate) -> th.Tensor:
        """‖mean ĝ‖² at the policy's weights, whose graph runs through the policy: never to be backpropagated whole."""
        at_weights = th.autograd.grad(
            estimate.latent.theta,
            self.view.actor_weights,
            estimate.grad_with_graph / estimate.samples,
            create_graph=True,
            retain_graph=True,
        )
        return th.stack([gradient.square().sum() for gradient in at_weights]).sum()


def descend(
    optimizer: th.optim.Optimizer, parameters: Sequence[th.nn.Parameter], gradients: Sequence[th.Tensor | None]
) -> None:
    """One step of these parameters, and of no others that the optimizer may have."""
    clear_gradients(optimizer)
    give_gradients(parameters, gradients)
    take_step(optimizer)


def one_optimizer(
    optimizer: th.optim.Optimizer | None, further: Sequence[th.nn.Parameter]
) -> th.optim.Optimizer | None:
    """An optimizer of more weights, so that one learning rate and one state serve several parts.

    :param optimizer: of some, which is added to; ``None``: one is made, where there is anything to train
    :param further: those that it has already stay as they are
    """
    known = set() if optimizer is None else {id(weight) for weight in parameters_of(optimizer)}
    further = [weight for weight in further if weight.requires_grad and id(weight) not in known]
    if not further:
        return optimizer
    if optimizer is None:
        return th.optim.Adam(further, lr=0.0, fused=True)
    optimizer.add_param_group({"params": further})
    return optimizer


def fits_adam(gradients: Sequence[th.Tensor | None]) -> bool:
    """Whether a gradient can be squared in its dtype. Adam averages the squares, and infinity would stay for good."""
    parts = [part.flatten() for part in gradients if part is not None]
    return not parts or math.isfinite(th.linalg.vector_norm(th.cat(parts)).item())


class NetworkControlVariate(LearnedControlVariate):
    """ĉ_φ(a, s), a small network on what the policy knows of the state, inside one of the core's estimators.

    :param view: of the policy
    :param hyperparameters: see :class:`LearnedControlVariate`
    :param init_temperature: τ of the relaxed action at the start; ``None`` where actions enter as they are
    """

    def __init__(self, view: PolicyView, hyperparameters: Hyperparameters, init_temperature: float | None = None):
        super().__init__(view, hyperparameters)
        self.network = ControlVariateNetwork.of(view, init_temperature)
        self.optimize(self.network.parameters())
        c = self.network.at_states(view.latent, th.empty(0))
        self.draws_noise = self.estimator(c).noise_shape(view.latent) is not None

    @abstractmethod
    def estimator(self, c: AtStates) -> TwoPhaseEstimator:
        """The core's estimator for a batch, given c at the batch's states."""

    def gradient(self, output: PolicyOutput, signal: th.Tensor, generator: th.Generator) -> Estimate:
        c = self.network.at_states(output.latent, output.features)
        return self.estimator(c).finish(output.latent, output.sample, signal, None, generator)

    def fit(
        self, output: PolicyOutput, signal: th.Tensor, estimate: Estimate, generator: th.Generator
    ) -> dict[str, float]:
        log = super().fit(output, signal, estimate, generator)
        if self.network.log_temperature is not None:
            with th.no_grad():
                log["temperature"] = learned_temperature(self.network.log_temperature).item()
        return log

    def observe(self, estimate: Estimate) -> None:
        self.network.observe(estimate.value)
