"""K-FAC: the Fisher matrix of the policy's weights by blocks, averaged over updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.distributions import DiagGaussianDistribution, StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_relax.policy_gradient.update_rules.natural_gradient.averages import Averages
from sb3_relax.policy_gradient.update_rules.natural_gradient.block import Block
from sb3_relax.policy_gradient.update_rules.natural_gradient.kronecker import KroneckerBlock, takes, takes_calls
from sb3_relax.policy_gradient.update_rules.natural_gradient.noise_scale import LogStdBlock, StateDependentNoiseBlock
from sb3_relax.policy_gradient.update_rules.natural_gradient.trace import Trace


def blocks_of(policy: ActorCriticPolicy, trace: Trace, weights: set[nn.Parameter]) -> list[Block]:
    """The blocks of F for all weights that have one.

    :param policy: whose weights they are
    :param trace: of a pass, with the calls of all layers of :func:`layers_with`
    :param weights: those that the action distribution depends on
    """
    blocks: list[Block] = []
    n_steps = len(trace.latent.theta)
    for layer, calls in trace.calls.items():
        if takes_calls(layer, calls, n_steps):
            blocks.append(KroneckerBlock(layer, calls[0]))  # type: ignore[arg-type]
    log_std: Any = getattr(policy, "log_std", None)
    if log_std is None or log_std not in weights:
        return blocks
    distribution = policy.action_dist
    means = trace.calls.get(policy.action_net, [])
    if isinstance(distribution, DiagGaussianDistribution):  # the squashed one as well
        blocks.append(LogStdBlock(log_std))
    elif isinstance(distribution, StateDependentNoiseDistribution) and takes_calls(policy.action_net, means, n_steps):
        log_scale = trace.latent.theta[..., 1]
        blocks.append(StateDependentNoiseBlock(log_std, distribution, means[0].inputs, log_scale))
    return blocks


def layers_with(policy: nn.Module, weights: set[nn.Parameter]) -> list[nn.Module]:
    """The layers of a policy that have a block, and all of whose parameters are among ``weights``."""
    return [layer for layer in policy.modules() if takes(layer) and weights.issuperset(layer.parameters())]


def without_block(policy: nn.Module, blocks: Sequence[Block], weights: set[nn.Parameter]) -> list[str]:
    """Names of the weights that belong to no block, as the policy has them."""
    left = weights.difference(*(block.weights for block in blocks))
    return [name for name, parameter in policy.named_parameters() if parameter in left]


def kfac_direction(
    averages: Averages,
    blocks: Sequence[Block],
    trace: Trace,
    gradients: Mapping[nn.Parameter, th.Tensor],
    damping: float,
) -> dict[nn.Parameter, th.Tensor]:
    """F⁻¹ g by blocks, F from actions drawn from the policy; the averages take in the batch first.

    :param blocks: of all weights in ``gradients``
    :param trace: that the blocks were made of
    :param gradients: g, by the weight that each part belongs to
    :return: in the same places
    """
    latent = trace.latent
    outputs = [block.outputs for block in blocks if block.outputs is not None]
    # log π(y|s) of step n depends on the outputs of step n alone: one pass gives the gradients of all steps
    at_outputs = iter(th.autograd.grad(latent.theta, outputs, latent.score(latent.sample())) if outputs else ())
    seen = [block.statistics(None if block.outputs is None else next(at_outputs)) for block in blocks]
    direction: dict[nn.Parameter, th.Tensor] = {}
    for block, averaged in zip(blocks, averages.observe(seen), strict=True):
        parts = block.solve(averaged, [gradients[weight] for weight in block.weights], damping)
        direction |= dict(zip(block.weights, parts, strict=True))
    return direction
