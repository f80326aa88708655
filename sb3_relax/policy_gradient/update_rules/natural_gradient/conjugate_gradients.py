"""F⁻¹ g by conjugate gradients on products of the Fisher matrix with vectors, for policies of any layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch as th

from sb3_relax.estimators import Latent


def fisher_product(latent: Latent, weights: Sequence[th.Tensor]) -> Callable[[th.Tensor], th.Tensor]:
    """v → F v, F the Fisher matrix of the batch: the Hessian of the KL divergence from the policy itself.

    As in TRPO (Schulman et al. 2015). The expectation over actions is exact.

    :param latent: of a pass of the policy whose graph is still there
    :param weights: those that the action distribution depends on
    :return: of vectors as long as all weights together
    """
    kl = latent.detach().kl(latent).mean()
    gradient = flat(th.autograd.grad(kl, weights, create_graph=True))

    def product(vector: th.Tensor) -> th.Tensor:
        return flat(th.autograd.grad(gradient @ vector, weights, retain_graph=True))

    return product


def conjugate_gradients(
    product: Callable[[th.Tensor], th.Tensor], vector: th.Tensor, iterations: int = 10, tolerance: float = 1e-10
) -> th.Tensor:
    """M⁻¹ ``vector``, M symmetric and positive definite (Hestenes and Stiefel 1952).

    :param product: v → M v
    :param iterations: at most
    :param tolerance: of the squared residual, as a share of ``vector``'s square
    """
    solution = th.zeros_like(vector)
    residual = ahead = vector
    square = first = residual @ residual
    for _ in range(iterations):
        if square <= tolerance * first:
            break
        image = product(ahead)
        step = square / (ahead @ image)
        solution = solution + step * ahead
        residual = residual - step * image
        before, square = square, residual @ residual
        ahead = residual + square / before * ahead
    return solution


def flat(parts: Sequence[th.Tensor]) -> th.Tensor:
    """All parts in one vector."""
    return th.cat([part.flatten() for part in parts])


def like(vector: th.Tensor, parts: Sequence[th.Tensor]) -> list[th.Tensor]:
    """:func:`flat`'s inverse: in the shapes of ``parts``."""
    pieces = vector.split([part.numel() for part in parts])
    return [piece.reshape(part.shape) for piece, part in zip(pieces, parts, strict=True)]
