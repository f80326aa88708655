"""The natural gradient as an update rule: its direction, its length in nats, and its damping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, isfinite, sqrt

import torch as th

from sb3_relax.estimators import Estimate
from sb3_relax.policy_gradient.gradients import give_gradients
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView
from sb3_relax.policy_gradient.quick_step import take_step
from sb3_relax.policy_gradient.update_rules.base import UpdateRule
from sb3_relax.policy_gradient.update_rules.natural_gradient.averages import Averages
from sb3_relax.policy_gradient.update_rules.natural_gradient.conjugate_gradients import (
    conjugate_gradients,
    fisher_product,
    flat,
    like,
)
from sb3_relax.policy_gradient.update_rules.natural_gradient.kfac import (
    blocks_of,
    kfac_direction,
    layers_with,
    without_block,
)
from sb3_relax.policy_gradient.update_rules.natural_gradient.trace import traced

#: nats of a step where no target is given and an action has one variable; where it has D, they are √D times as many
KL_OF_ONE_VARIABLE = 0.002
#: how far the measured KL of a step may be from the one asked for, as a share of it: above, never
TOLERANCE = 0.1
#: below it, rounding is all there is
SMALLEST_KL = 1e-12
#: lengths that are tried for one step, at most
TRIALS = 10
#: of the first update, and the bounds of what it is adapted to
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-2, 1e-6, 1e2
#: damping is changed by this factor where predicted and measured KL differ by more than the other
DAMPING_FACTOR, PREDICTED_WELL = 1.1, 1.25


class NaturalGradient(UpdateRule):
    """A step of ``target_kl`` nats along F⁻¹ĝ, F the Fisher matrix of the policy's weights (Amari 1998).

    F = E_s E_{y~π}[∂ log π(y|s) ∂ log π(y|s)ᵀ], y drawn from the policy and not the action that was taken. It is
    K-FAC's (Martens and Grosse 2015; in reinforcement learning ACKTR, Wu et al. 2017) where every weight that the
    action distribution depends on is a linear or convolutional layer's, or a Gaussian's standard deviation. For all
    other policies (LSTM, attention, layers of your own) conjugate gradients on products of F with vectors take its
    place, as in TRPO (Schulman et al. 2015); the log says so once.

    g is the policy's gradient and that of the entropy. With K-FAC both F and g are averages over updates; in g's, a
    batch counts ``momentum`` times as much as the one after it. A step has the same length whatever the noise, and the
    noise of ten batches together is a third of one's. Conjugate gradients have F and g of one batch: earlier gradients
    have parts to which the F of that batch gives no length. The direction is d = (F + ε)⁻¹g, and the step is s·d with

        s = min(√(2 ``target_kl`` / gᵀd), 1 / rms(Â)) · ``learning_rate`` now / ``learning_rate`` at the start

    The second limit holds where the objective is nearly flat: there √(2κ/gᵀd) grows without bound. With it, actions
    whose Â is one root mean square become about e times as likely, at most.

    Then the KL divergence E_s KL(π_old ‖ π_new) of the step is measured on the batch, and s is corrected until it is
    within 10% of the one asked for, or the second limit is reached. No step is kept whose KL is more than 1.1 times
    ``target_kl`` (times the share of the learning rate, squared). What was predicted, ½s²gᵀd, and what was measured
    adapt ε, as Levenberg and Marquardt do: where the KL was underestimated, ε grows.

    ``target_kl`` is of all variables of an action together. Where none is given it is 0.002 √D, for D variables: with
    the same nats for any D, steps hardly move each of many variables.

    V's loss is no part of g. It steps all weights that V depends on by the policy's optimizer, at ``learning_rate``.
    Where policy and V share weights, both steps move them, and are measured and shortened together. (ACKTR adds V's
    own Fisher matrix instead, of a unit Gaussian. The length of the policy's step then depends on the scale of the
    rewards.)

    :param view: of the policy
    :param hyperparameters: of the algorithm, whose ``target_kl`` and ``momentum`` are taken

    Example::

        RELAXA2C("MlpPolicy", "CartPole-v1", update_rule="kfac", target_kl=0.01)
    """

    needs_second_derivative = True

    damping: th.Tensor

    def __init__(self, view: PolicyView, hyperparameters: Hyperparameters):
        super().__init__(view)
        asked = hyperparameters.target_kl
        self.target_kl = KL_OF_ONE_VARIABLE * sqrt(view.latent.variables) if asked is None else asked
        self.averages = Averages()
        self.momentum = Averages(hyperparameters.momentum)
        self.register_buffer("damping", th.tensor(FIRST_DAMPING))
        self._said = False
        self._measured: dict[str, float] = {}

    def measured(self) -> dict[str, float]:
        return self._measured

    def step(
        self, output: PolicyOutput, estimate: Estimate, loss: th.Tensor, divisor: float, max_grad_norm: float
    ) -> float:
        weights = self.view.actor_weights
        of_value = value_gradients(output, loss, weights) if self.view.weights.are_shared else [None] * len(weights)
        norm = self.backward(estimate, loss, divisor, max_grad_norm)
        clipped = [weight.grad for weight in weights]
        share = min(1.0, max_grad_norm / (norm + 1e-6))  # what clipping has left of the gradient
        # a share of 0 is that of a norm that overflowed, as its gradient may have done
        of_value = [
            None if gradient is None else share * gradient if share > 0 else th.zeros_like(gradient)
            for gradient in of_value
        ]
        newest = policy_gradients(clipped, of_value, share)

        damping = self.damping.item()
        gradients, direction, n_blocks = self.direction(output, weights, newest, damping)
        slope = (flat(gradients) @ flat(direction)).item()
        size, longest = self.sizes(slope, estimate.value)
        kl_at = mover(output, weights, [size * part for part in direction], self.step_value(weights, of_value))

        shared = any(gradient is not None for gradient in of_value)
        scale = kl = 0.0
        if size > 0:
            predicted = 0.5 * size**2 * slope
            alone = kl_at(1.0, 0.0) / predicted if shared else None
            wanted = self.target_kl * self.rate_share() ** 2
            scale, kl = search(lambda length: kl_at(length, min(length, 1.0)), wanted, longest / size)
            as_moved = kl / (scale**2 * predicted) if scale > 0 else inf
            self.adapt_damping(as_moved if alone is None else alone, n_blocks)
        elif shared:
            scale, kl = search(lambda length: kl_at(0.0, length), self.target_kl, 1.0)
        give_gradients(weights, clipped)
        self._measured = {"kl": kl, "step_size": scale * size, "damping": damping}
        return norm

    def direction(
        self,
        output: PolicyOutput,
        weights: Sequence[th.nn.Parameter],
        gradients: Sequence[th.Tensor],
        damping: float,
    ) -> tuple[Sequence[th.Tensor], list[th.Tensor], int]:
        """g, d = (F + ε)⁻¹g, both in the shapes of the weights, and the number of blocks that F was taken to have.

        :param gradients: of this batch
        """
        policy, actor = self.view.policy, set(weights)
        trace = traced(output, layers_with(policy, actor))
        blocks = blocks_of(policy, trace, actor)
        missing = without_block(policy, blocks, actor)
        if not missing:
            (gradients,) = self.momentum.observe([gradients])
            found = kfac_direction(self.averages, blocks, trace, dict(zip(weights, gradients, strict=True)), damping)
            return gradients, [found[weight] for weight in weights], len(blocks)
        if not self._said:
            self._said = True
            self.note = (
                f"update_rule='kfac': K-FAC has no factors for {', '.join(missing)}, so the natural gradient is found "
                "by conjugate gradients on Fisher-vector products, as in TRPO"
            )
        product = fisher_product(trace.latent, weights)
        solution = conjugate_gradients(lambda vector: product(vector) + damping * vector, flat(gradients))
        return gradients, like(solution, gradients), 1

    def sizes(self, slope: float, signal: th.Tensor) -> tuple[float, float]:
        """s, and the most that it may become; both 0 where there is nowhere to go.

        :param slope: gᵀd
        :param signal: Â
        """
        if not (slope > 0 and isfinite(slope)):
            return 0.0, 0.0
        scale = signal.square().mean().sqrt().item()
        longest = self.rate_share() / scale if scale > 0 else inf
        return min(sqrt(2 * self.target_kl / slope) * self.rate_share(), longest), longest

    def rate_share(self) -> float:
        """What ``learning_rate`` is now, as a share of what it was at the start, and never more than 1."""
        now, start = self.optimizer.param_groups[0]["lr"], self.optimizer.defaults["lr"]
        return min(now / start, 1.0) if start > 0 else float(now > 0)

    @th.no_grad()
    def step_value(self, weights: Sequence[th.nn.Parameter], of_value: Sequence[th.Tensor | None]) -> list[th.Tensor]:
        """One step of the policy's optimizer down V's loss; it leaves out what has no gradient.

        :param weights: the policy's, which stay where they are
        :param of_value: V's gradient of each; V's own weights have theirs already
        :return: how far it takes each of ``weights``
        """
        before = [weight.clone() for weight in weights]
        give_gradients(weights, of_value)
        take_step(self.optimizer)
        moved = [weight - start for weight, start in zip(weights, before, strict=True)]
        for weight, start in zip(weights, before, strict=True):
            weight.copy_(start)
        return moved

    def adapt_damping(self, ratio: float, n_blocks: int) -> None:
        """Less where the KL was overestimated, more where it was underestimated by more than the blocks explain.

        What F has between L blocks is left out of the prediction, and can make the KL up to L times as large.

        :param ratio: of the measured KL to the predicted
        :param n_blocks: L
        """
        if ratio < 1 / PREDICTED_WELL:
            self.damping /= DAMPING_FACTOR
        elif ratio > PREDICTED_WELL * n_blocks:
            self.damping *= DAMPING_FACTOR
        self.damping.clamp_(LEAST_DAMPING, MOST_DAMPING)


def value_gradients(
    output: PolicyOutput, loss: th.Tensor, weights: Sequence[th.nn.Parameter]
) -> list[th.Tensor | None]:
    """What V adds to the gradient of the loss, at weights of the policy; ``None`` where V does not depend on one."""
    nothing: list[th.Tensor | None] = [None] * len(weights)
    (at_values,) = th.autograd.grad(loss, output.values, retain_graph=True, allow_unused=True)
    if at_values is None:
        return nothing
    found = th.autograd.grad(output.values, weights, at_values, retain_graph=True, allow_unused=True)
    return list(found)


def policy_gradients(
    clipped: Sequence[th.Tensor | None], of_value: Sequence[th.Tensor | None], share: float
) -> list[th.Tensor]:
    """g, for ascent and before clipping: what of the loss' gradient is not V's.

    :param clipped: gradient of the whole loss
    :param of_value: V's part of it, clipped too
    :param share: what clipping has left
    """
    scale = 0.0 if share == 0 else -1 / share
    found = []
    for whole, v in zip(clipped, of_value, strict=True):
        assert whole is not None  # the policy depends on the weight
        found.append(scale * (whole if v is None else whole - v))
    return found


def mover(
    output: PolicyOutput,
    weights: Sequence[th.nn.Parameter],
    natural: Sequence[th.Tensor],
    of_value: Sequence[th.Tensor],
) -> Callable[[float, float], float]:
    """What moves the policy from where it is by shares of two steps, and gives the KL divergence of where it was.

    :param output: of the policy where it is
    :param natural: the natural step of each weight
    :param of_value: V's
    :return: of the two shares; infinite where the KL is not a number
    """
    starts = [weight.detach().clone() for weight in weights]

    @th.no_grad()
    def kl_at(of_natural: float, of_v: float) -> float:
        for weight, start, first, second in zip(weights, starts, natural, of_value, strict=True):
            weight.copy_(start + of_natural * first + of_v * second)
        kl = output.latent.kl(output.latent_again()).mean().item()
        return max(kl, 0.0) if isfinite(kl) else inf  # rounding may leave less than nothing

    return kl_at


def search(kl_at: Callable[[float], float], wanted: float, longest: float) -> tuple[float, float]:
    """How long a step has to be for the KL divergence that is wanted, which grows with the square of a short one.

    :param kl_at: length → KL, and moves there; it is left where the search ends
    :param wanted: KL
    :param longest: length that is allowed; the first that is tried is 1
    :return: a length, and the KL measured there, within :data:`TOLERANCE` of the one wanted, or less at ``longest``;
        0 and 0 where no length was found at which it is not too large
    """
    scale = min(1.0, longest)
    kl = kl_at(scale)
    for _ in range(TRIALS - 1):
        if abs(kl - wanted) <= TOLERANCE * wanted or (kl <= wanted and scale >= longest):
            break
        factor = min(max(sqrt(wanted / max(kl, SMALLEST_KL)), 0.1), 10.0)
        scale = min(scale * factor, longest)
        kl = kl_at(scale)
    if kl <= (1 + TOLERANCE) * wanted:
        return scale, kl
    kl_at(0.0)
    return 0.0, 0.0
