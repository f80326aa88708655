"""Kronecker-factored blocks of the Fisher matrix: linear and convolutional layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_relax.policy_gradient.update_rules.natural_gradient.block import Block
from sb3_relax.policy_gradient.update_rules.natural_gradient.trace import Call


class KroneckerBlock(Block):
    """A layer's block of F as A ⊗ G (Martens and Grosse 2015; convolutions: Grosse and Martens 2016).

    With x the layer's inputs (and a 1 for the bias) and g = ∂ log π(y|s) at its outputs, A = E[xxᵀ] and G = E[ggᵀ]. Of
    a convolution, x are the patches that its kernel sees, A is summed over positions, and G is averaged over them. It
    is exact where x and g are independent, and for a single step without positions.

    The damping ε is split between the two: (A + √ε ρ 1) ⊗ (G + √ε/ρ 1), with ρ² = (tr A / dim A) / (tr G / dim G).

    :param layer: one that :func:`takes` accepts
    :param call: of the layer
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, call: Call):
        super().__init__(list(layer.parameters()), call.outputs)
        self.layer = layer
        self.inputs = call.inputs

    def statistics(self, gradient: th.Tensor | None) -> list[th.Tensor]:
        assert gradient is not None
        x, g = self.inputs, gradient
        n = len(x)
        if isinstance(self.layer, nn.Conv2d):
            x, g = patches(self.layer, x), g.flatten(2).transpose(1, 2).flatten(0, 1)
        if self.layer.bias is not None:
            x = F.pad(x, (0, 1), value=1.0)
        return [x.T @ x / n, g.T @ g / len(g)]

    def solve(self, statistics: Sequence[th.Tensor], gradients: Sequence[th.Tensor], damping: float) -> list[th.Tensor]:
        a, g = statistics
        ratio = (a.trace() / len(a)) / (g.trace() / len(g))
        # a layer that nothing goes through, or that nothing depends on, has a trace of zero
        rho = th.where(ratio.isfinite() & (ratio > 0), ratio, 1.0).sqrt()
        gradient = th.cat([part.flatten(1) if part.dim() > 1 else part.unsqueeze(1) for part in gradients], dim=1)
        left = th.cholesky_solve(gradient, cholesky_of(g, damping**0.5 / rho))
        natural = th.cholesky_solve(left.T, cholesky_of(a, damping**0.5 * rho)).T
        sizes = [part[0].numel() for part in gradients]
        return [part.reshape(like.shape) for part, like in zip(natural.split(sizes, dim=1), gradients, strict=True)]


def cholesky_of(matrix: th.Tensor, damping: th.Tensor) -> th.Tensor:
    """Cholesky factor of ``matrix`` + ``damping`` · 1, damped no less than rounding needs."""
    damping = th.maximum(damping, 10 * th.finfo(matrix.dtype).eps * matrix.trace())
    damped = matrix.clone()
    damped.diagonal().add_(damping)
    return th.linalg.cholesky(damped)


def patches(layer: nn.Conv2d, images: th.Tensor) -> th.Tensor:
    """What a convolution's kernel sees: ``[N, C, H, W]`` → ``[N · positions, C · kernel]``."""
    padding: tuple[int, ...] = layer.padding  # type: ignore[assignment]  # takes() refuses those that are words
    unfolded = F.unfold(images, layer.kernel_size, layer.dilation, padding, layer.stride)
    return unfolded.transpose(1, 2).flatten(0, 1)


def takes(layer: nn.Module) -> bool:
    """Whether a layer is one of which the block is known: torch's own Linear or Conv2d, and not a subclass.

    Of convolutions, those with groups, or with padding other than a number of zeros, are left out.
    """
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear


def takes_calls(layer: nn.Module, calls: Sequence[Call], n_steps: int) -> bool:
    """Whether a layer was called once, with one input for each of ``n_steps`` steps."""
    dims = 4 if isinstance(layer, nn.Conv2d) else 2
    return len(calls) == 1 and calls[0].inputs.dim() == dims and len(calls[0].inputs) == n_steps
