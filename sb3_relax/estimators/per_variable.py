"""One estimator for variables each of which has a cost of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sb3_relax.estimators.base import Estimator, TwoPhaseEstimator, require_estimator, watched
from sb3_relax.estimators.checks import is_checked
from sb3_relax.estimators.estimate import Estimate, as_one_of
from sb3_relax.estimators.latents import Latent, RelaxedLatent
from sb3_relax.estimators.objective import Objective, evaluate

#: times that another value is looked for in the place of one that was drawn, before the check gives up on it
TRIES = 16
#: the log-probability of what a mask forbids is below it, in every type
NEVER = -1e4
#: looks at the first call, half of them at variables that all have the same value
FIRST_LOOKS = 8


class PerVariable(Estimator):
    """∂θ E[Σ_d f_d(b_d)] of D independent variables, the d-th cost being a function of the d-th variable alone.

    f returns ``[*batch, D]``. One number for all variables would let every one of them hear the others' costs, which
    are noise to it: D times as much variance. Here each hears its own, as if it were an element of the batch:
    ``estimator`` sees one variable at a time (:meth:`Latent.each_variable`), and so do its control variate and its
    baseline. One of them serves all variables, and tells them apart by a context, ``[*batch, D, ...]``.

    Where a cost depends on another variable as well, the estimate is biased. So the first call looks eight times: it
    gives single variables another value, and refuses an f in which another one's cost moves. In every second look all
    bits, or all one-hots, have the same value, where reads of one slot would meet. Calls number 2, 4, 8, 16 and so on
    look once. A look is two calls of f, and more where a batch has fewer elements than b has variables. What those
    values do not show it cannot see: :func:`check_unbiased` visits all.

    ``Estimate.value`` is the sum of the costs, ``[*batch]``. For costs of layers see :func:`layered`.

    :param estimator: of one variable
    :param check: whether calls look. ``False`` where f is random, or must not be called once more
    :raises TypeError: for what is no estimator

    Example::

        q = GumbelOneHot(logits)  # [*batch, D, K]: D reads of a memory of K slots
        estimator = PerVariable(make("relax", q.each_variable()))
        estimator(q, lambda b: (b @ memory - target).square().sum(-1)).backward()
    """

    latents = (Latent,)
    check = True
    #: calls with f at hand
    calls = 0

    def __init__(self, estimator: Estimator, check: bool = True):
        super().__init__()
        require_estimator(estimator)
        self.estimator = estimator
        self.samples, self.evaluations = estimator.samples, estimator.evaluations
        self.unbiased, self.needs_grad_f = estimator.unbiased, estimator.needs_grad_f  # type: ignore[misc]
        self.check = check

    @property
    def reads_context(self) -> bool:
        return self.estimator.reads_context

    def require_latent(self, latent: Latent) -> None:
        self.estimator.require_latent(latent.each_variable())

    def draw(self, latent: Latent, generator: torch.Generator | None = None) -> Tensor | None:
        b = self.estimator.draw(latent.each_variable(), generator)
        return None if b is None else b.squeeze(-latent.sample_ndim)

    def probability_of_draws(self, latent: Latent, b: Tensor) -> Tensor:
        apart = b.unsqueeze(-latent.sample_ndim)
        return self.estimator.probability_of_draws(latent.each_variable(), apart).prod(-1)

    def noise_shape(self, latent: Latent) -> tuple[int, ...] | None:
        apart = latent.each_variable()
        shape = self.estimator.noise_shape(apart)
        if shape is None:
            return None
        draws = shape[: len(shape) - len(apart.noise_shape)]
        return (*draws, *latent.noise_shape)

    def noise_rule(self, latent: Latent, nodes: int, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
        return self.estimator.noise_rule(latent, nodes, chunk)

    def target(self, values: Tensor) -> Tensor:
        return self.estimator.target(values).sum(-1)

    def draw_and_estimate(self, latent: Latent, f: Objective, generator: torch.Generator | None) -> Estimate:
        if self.check and is_checked():
            self.calls += 1
            for look in looks_of(self.calls):
                require_own_costs(latent, f, seed=look, alike=look % 2 == 1)
        apart = latent.each_variable()
        return as_one_of(self.estimator.draw_and_estimate(apart, _of_each(f, latent), generator), latent)

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        apart = latent.each_variable()
        if b is not None:
            b = b.unsqueeze(-latent.sample_ndim)
        noise = self._of_each_noise(apart, noise)
        return as_one_of(self.estimator.estimate(apart, _of_each(f, latent), b, noise), latent)

    def finish(
        self,
        latent: Latent,
        b: Tensor,
        value: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
    ) -> Estimate:
        """As :meth:`TwoPhaseEstimator.finish`, where ``estimator`` is one. What a cost depends on is not looked at.

        :param value: the costs, ``[*batch, D]`` (with b's leading dimension, where there are several samples)
        :raises TypeError: where ``estimator`` must have f at hand
        """
        if not isinstance(self.estimator, TwoPhaseEstimator):
            raise TypeError(f"{type(self.estimator).__name__} needs f at hand: call the estimator with it")
        apart = latent.each_variable()
        b = b.unsqueeze(-latent.sample_ndim)
        noise = self._of_each_noise(apart, noise)
        return watched(self, as_one_of(self.estimator.finish(apart, b, value, noise, generator, context), latent))

    def _of_each_noise(self, apart: Latent, noise: Tensor | None) -> Tensor | None:
        shape = self.estimator.noise_shape(apart)
        return noise if noise is None or shape is None else noise.reshape(shape)


def looks_of(call: int) -> Sequence[int]:
    """Numbers of the looks that a call takes: :data:`FIRST_LOOKS` the first one, and one each of calls 2, 4, 8, ..."""
    if call == 1:
        return range(FIRST_LOOKS)
    return [FIRST_LOOKS + call.bit_length()] if call & (call - 1) == 0 else []


def _of_each(f: Objective, latent: Latent) -> Objective:
    """f of samples whose variables are elements of the batch."""
    return lambda b: f(b.squeeze(-latent.sample_ndim))


@torch.no_grad()
def require_own_costs(latent: Latent, f: Objective, seed: int = 0, alike: bool = False) -> None:
    """Refuse an f in which the cost of a variable moves with another one.

    In every element of the batch one variable gets another value, the next one in the next element; so f is called
    once for the values as drawn, and once more for every ``batch`` variables.

    :param f: ``[*batch, *event of b]`` → ``[*batch, D]``
    :param seed: of the values
    :param alike: whether all bits or one-hots of an element have one value, before one of them gets another
    :raises ValueError: where a cost moves, naming the two variables; or where f, called twice with the same values,
        returns other ones
    """
    generator = torch.Generator(latent.theta.device).manual_seed(seed)  # the estimate's own stays as it is
    b = latent.sample(generator)
    apart = latent.each_variable()
    shape, variables = apart.batch_shape, apart.batch_shape[-1]
    batch = shape[:-1].numel()
    if batch == 0 or variables < 2:
        return
    number = torch.arange(variables, device=b.device).expand(shape)
    element = torch.arange(batch, device=b.device).reshape(*shape[:-1], 1)
    if alike and isinstance(latent, RelaxedLatent):  # a number of one variable may be far out for another
        of_one = (number == (element + seed) % variables).reshape(*shape, *(1,) * (b.dim() - len(shape)))
        theirs = (b * of_one).sum(len(shape) - 1, keepdim=True).expand_as(b)
        possible = apart.log_prob(theirs.unsqueeze(-latent.sample_ndim)) > NEVER  # a mask may forbid it here
        b = torch.where(possible.reshape(of_one.shape), theirs, b)
    before = evaluate(f, b, shape)
    for start in range(0, variables, batch):
        chosen = number == (element + start) % variables
        spread = chosen.reshape(*shape, *(1,) * (b.dim() - len(shape)))
        moved = b
        for _ in range(TRIES):
            moved = torch.where(spread & (moved == b), latent.sample(generator), moved)
        change = (evaluate(f, moved, shape) - before).abs()
        # what rounding may do where the same numbers are added up in another order
        tolerance = torch.finfo(change.dtype).eps ** 0.75 * before.abs().max()
        wrong = (change > tolerance) & ~chosen
        if not bool(wrong.any()):
            continue
        if bool(((evaluate(f, b, shape) - before).abs() > tolerance).any()):
            raise ValueError(
                "f returns other values for the same b, so that what its costs depend on cannot be seen: make it "
                "certain, or leave the check out, PerVariable(estimator, check=False)"
            )
        *at, other = wrong.nonzero()[0].tolist()
        own = chosen[tuple(at)].nonzero()[0].item()
        raise ValueError(
            "PerVariable takes costs that depend on their own variable alone: "
            f"f(b)[..., {other}] changed with variable {own}. Return one value, f(b).sum(-1), and leave PerVariable out"
        )
