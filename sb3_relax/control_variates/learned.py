"""Control variates whose φ descends on the variance of the gradient (Eq 6)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch as th

from sb3_relax.control_variates.base import ControlVariate
from sb3_relax.control_variates.network import AtStates, ControlVariateNetwork
from sb3_relax.estimators import Estimate, TwoPhaseEstimator
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView


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
        self.at_weights = hyperparameters.cv_objective == "weights"

    def optimize(self, parameters: Iterable[th.nn.Parameter]) -> None:
        """Make the optimizer, of those parameters that are trained; its rate is set before every step."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        self.optimizer = th.optim.Adam(trained, lr=0.0, fused=True) if trained else None

    def fit(
        self, output: PolicyOutput, signal: th.Tensor, estimate: Estimate, generator: th.Generator
    ) -> dict[str, float]:
        if self.optimizer is None:
            return {}
        phi = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        loss: float | None = None
        for step in range(self.n_steps):
            again = estimate if step == 0 else self.gradient(output, signal, generator)
            value, gradients = self.objective(again, phi)
            loss = value if loss is None else loss
            for parameter, gradient in zip(phi, gradients, strict=True):
                parameter.grad = gradient
            self.optimizer.step()
        assert loss is not None
        return {"cv_loss": loss}

    def objective(self, estimate: Estimate, phi: list[th.nn.Parameter]) -> tuple[float, list[th.Tensor | None]]:
        """What φ descends on, and its gradient, which reaches neither the policy nor the signal."""
        if not self.at_weights:
            return estimate.moments.square_at(1), list(estimate.phi_gradients(phi))
        # ‖mean ĝ‖² at the policy's weights, whose graph runs through the policy: never to be backpropagated whole
        at_weights = th.autograd.grad(
            estimate.latent.theta,
            self.view.actor_weights,
            estimate.grad_with_graph / estimate.samples,
            create_graph=True,
            retain_graph=True,
        )
        square = th.stack([gradient.square().sum() for gradient in at_weights]).sum()
        return square.item(), list(th.autograd.grad(square, phi, retain_graph=True, allow_unused=True))


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

    @abstractmethod
    def estimator(self, c: AtStates) -> TwoPhaseEstimator:
        """The core's estimator for a batch, given c at the batch's states."""

    @property
    def draws_noise(self) -> bool:
        latent = self.view.latent
        c = self.network.at_states(latent, th.empty(0))
        return self.estimator(c).noise_shape(latent) is not None

    def gradient(
        self, output: PolicyOutput, signal: th.Tensor, generator: th.Generator, noise: th.Tensor | None = None
    ) -> Estimate:
        """As every control variate's.

        :param noise: in the place of ``generator``'s; shape as the estimator's ``noise_shape``
        """
        c = self.network.at_states(output.latent, output.features)
        return self.estimator(c).finish(output.latent, output.sample, signal, noise, generator)

    def fit(
        self, output: PolicyOutput, signal: th.Tensor, estimate: Estimate, generator: th.Generator
    ) -> dict[str, float]:
        log = super().fit(output, signal, estimate, generator)
        if self.network.log_temperature is not None:
            log["temperature"] = self.network.log_temperature.exp().item()
        return log

    def observe(self, estimate: Estimate) -> None:
        self.network.observe(estimate.value)
