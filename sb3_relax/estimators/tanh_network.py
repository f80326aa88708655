"""A tanh network with a scalar output, its slope in closed form, and the derivatives of both by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sb3_relax.estimators.checks import under_transform

#: g ⊙ (1 - h²) at h = tanh(a), in one kernel
tanh_backward = torch.ops.aten.tanh_backward


def value_and_slope_of_tanh_network(
    x: Tensor, layers: Sequence[tuple[Tensor, Tensor]], output_weight: Tensor, output_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """c(x) = w·h_L + b with h_l = tanh(W_l h_{l-1} + b_l), h_0 = x, and ∂c/∂x = W_1ᵀ(d_1 ⊙ … W_Lᵀ(d_L ⊙ w)).

    Here d_l = 1 - h_l². Eq 6 differentiates the slope in φ: autograd would spend some thirty small operations on that,
    where the passes written out take ten.

    :param x: ``[..., D]``
    :param layers: at least one (W_l ``[H_l, H_{l-1}]``, b_l ``[H_l]``, or one b_l for every row, broadcastable to
        ``[..., H_l]``)
    :param output_weight: w, ``[1, H_L]``
    :param output_bias: b, ``[1]``
    :return: c ``[...]`` and ∂c/∂x, shape of x; differentiable once in everything that went in
    """
    flat = [part for layer in layers for part in layer]
    if under_transform():
        # torch.func differentiates, and maps, the formula itself
        out = forward_pass(x, output_weight, output_bias, flat)
        return out.value, out.slope
    return _TanhNetwork.apply(x, output_weight, output_bias, *flat)


class Pass(NamedTuple):
    """One forward pass. Of layer l: h_l, g_l = ∂c/∂h_l and u_l = g_l ⊙ (1 - h_l²)."""

    value: Tensor
    slope: Tensor
    hidden: Sequence[Tensor]
    g: Sequence[Tensor]
    u: Sequence[Tensor]


def forward_pass(x: Tensor, output_weight: Tensor, output_bias: Tensor, flat: Sequence[Tensor]) -> Pass:
    """c, ∂c/∂x and what :func:`backward_pass` needs of them.

    :param flat: W_1, b_1, W_2, …
    """
    weights, biases = flat[0::2], flat[1::2]
    hidden, h = [], x
    for weight, bias in zip(weights, biases, strict=True):
        h = torch.tanh(_affine(h, weight, bias))
        hidden.append(h)
    value = F.linear(h, output_weight, output_bias).squeeze(-1)
    slope, g, u = output_weight, [], []
    for weight, h in zip(reversed(weights), reversed(hidden), strict=True):
        g.append(slope)
        u.append(tanh_backward(slope, h))
        slope = u[-1] @ weight
    return Pass(value, slope.reshape(x.shape), hidden, g[::-1], u[::-1])


def backward_pass(
    out: Pass,
    x: Tensor,
    output_weight: Tensor,
    flat: Sequence[Tensor],
    value_bar: Tensor,
    slope_bar: Tensor,
    of_input: bool = False,
) -> tuple[Tensor | None, Tensor, Tensor, list[Tensor]]:
    """The gradient of ⟨c, value_bar⟩ + ⟨∂c/∂x, slope_bar⟩ in x (where asked for), w, b and W_1, b_1, W_2, …"""
    weights, biases = flat[0::2], flat[1::2]
    value_bar = value_bar.unsqueeze(-1)

    # the slope's chain, from the input up: g_{l-1} = u_l W_l, u_l = g_l (1 - h_l²)
    g_bar, weight_bars, products = slope_bar, [], []
    for weight, h, g_l, u_l in zip(weights, out.hidden, out.g, out.u, strict=True):
        weight_bars.append(outer(u_l, g_bar))
        u_bar = F.linear(g_bar, weight)
        products.append(u_bar * g_l)  # the share of h_l is -2 h_l ⊙ this
        g_bar = tanh_backward(u_bar, h)
    output_weight_bar = _rows(torch.addcmul(g_bar, value_bar, out.hidden[-1])).sum(0, keepdim=True)

    # the value's, from the output down
    h_bar: Tensor | None = value_bar * output_weight
    bias_bars: list[Tensor] = []
    for layer in range(len(weights) - 1, -1, -1):
        assert h_bar is not None
        h = out.hidden[layer]
        a_bar = tanh_backward(torch.addcmul(h_bar, products[layer], h, value=-2), h)
        weight_bars[layer] = torch.addmm(
            weight_bars[layer], _rows(a_bar).T, _rows(out.hidden[layer - 1] if layer else x)
        )
        bias_bars.insert(0, a_bar.sum_to_size(biases[layer].shape))
        h_bar = a_bar @ weights[layer] if layer or of_input else None
    flat_bars = [bar for pair in zip(weight_bars, bias_bars, strict=True) for bar in pair]
    x_bar = None if h_bar is None else h_bar.reshape(x.shape)
    return x_bar, output_weight_bar, _rows(value_bar).sum(0), flat_bars


class _TanhNetwork(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, output_weight: Tensor, output_bias: Tensor, *flat: Tensor
    ) -> tuple[Tensor, Tensor]:
        out = forward_pass(x, output_weight, output_bias, flat)
        ctx.save_for_backward(x, output_weight, out.value, out.slope, *flat, *out.hidden, *out.g, *out.u)
        return out.value, out.slope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, value_bar: Tensor, slope_bar: Tensor) -> tuple[Tensor | None, ...]:
        x, output_weight, value, slope, *saved = ctx.saved_tensors
        depth = len(saved) // 5
        flat = saved[: 2 * depth]
        out = Pass(value, slope, *(saved[i * depth : (i + 1) * depth] for i in (2, 3, 4)))
        x_bar, weight_bar, bias_bar, flat_bars = backward_pass(
            out, x, output_weight, flat, value_bar, slope_bar, ctx.needs_input_grad[0]
        )
        return x_bar, weight_bar, bias_bar, *flat_bars


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if bias.dim() == 1:
        return F.linear(x, weight, bias)
    return torch.addmm(bias, x, weight.T) if x.dim() == bias.dim() == 2 else F.linear(x, weight) + bias


def _rows(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])


def outer(x: Tensor, y: Tensor) -> Tensor:
    """Σ over the leading dimensions of x ⊗ y."""
    return _rows(x).T @ _rows(y)
