"""Variance of a gradient estimate."""

from __future__ import annotations

from torch import Tensor


def sample_variance(grad: Tensor, event_ndim: int) -> Tensor:
    """Trace of the covariance of per-sample gradients over a batch: Σ_i Var(ĝ_i), a scalar.

    The variance is taken over samples and summed over components, never across the components of one gradient.

    :param grad: ĝ per sample, ``[*batch, *event]``
    :param event_ndim: number of trailing dimensions that make one gradient
    :return: unbiased estimate; 0 for fewer than two samples
    """
    flat = grad.reshape(grad.shape[: grad.dim() - event_ndim].numel(), -1)
    if len(flat) < 2:
        return flat.new_zeros(())
    return flat.var(0).sum()
