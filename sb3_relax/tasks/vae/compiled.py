"""The gradient of one batch as one compiled graph.

Half of an iteration's time is the bookkeeping of several hundred small operations. ``torch.compile`` by itself does not
get behind ``autograd.grad``, let alone the second derivatives of REBAR and RELAX; ``make_fx`` writes down what was
done in the end, backward passes included, and that compiles.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor_config
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from sb3_relax.estimators.checks import require_finite, unchecked
from sb3_relax.estimators.memory_layout import laid_out_as
from sb3_relax.tasks.vae.model import DiscreteVAE
from sb3_relax.tasks.vae.objective import accumulate_gradient, estimate_gradient

#: beside the parameters' names, that of f
VALUE = "f"


def require_compiler(device: torch.device) -> None:
    """Refuse to compile for a CPU where torch would find no C++ compiler, before anything is traced.

    :raises ValueError: naming what was looked for
    """
    names = [name for name in inductor_config.cpp.cxx if name]
    if device.type == "cpu" and not any(map(shutil.which, names)):
        raise ValueError(
            f"compile needs a C++ compiler, and {' or '.join(names)} is not there: install one, name it in the "
            "environment variable CXX, or train without compile"
        )


class CompiledGradient:
    """:func:`~sb3_relax.tasks.vae.objective.accumulate_gradient`, traced and compiled for one shape of x.

    The numbers are the same to rounding: the same uniforms are drawn from the same generator in the same order.
    Surrogates' derivatives in closed form give way to autograd's. Tracing takes ten seconds or so in every process,
    compiling up to a minute, after which torch finds the result on disk.

    :param model: the model; its tensors may be changed in place, but not be replaced by others
    :param estimators: one for each layer; likewise
    :param compile: what is done with the traced graph, such as ``partial(torch.compile, backend="aot_eager")``

    Example::

        gradient = CompiledGradient(model, estimators)
        f = gradient(x, generator, shift)
    """

    def __init__(
        self,
        model: DiscreteVAE,
        estimators: nn.ModuleList,
        compile: Callable[[GraphModule], Callable[..., dict[str, Tensor]]] = torch.compile,
    ):
        self.compile = compile
        self._model, self._estimators = model, estimators
        self._tensors = tensors_of(model, estimators)
        self._parameters = {name: t for name, t in self._tensors.items() if isinstance(t, nn.Parameter)}
        self._traced: TracedGradient | None = None
        self._compiled: Callable[..., dict[str, Tensor]]

    def __call__(self, x: Tensor, generator: torch.Generator, shift: Tensor) -> Tensor:
        """Replace ``.grad`` of every parameter, θ's uphill, φ's downhill; f, ``[*batch]``, detached.

        :raises TypeError: for an estimator whose noise is not made of uniforms
        :raises ValueError: for a value of f that is not finite. Samples that only control variates see are not looked
            at: what they spoil shows in the next f
        """
        if self._traced is None or self._traced.shape != x.shape:
            self._traced = trace_gradient(self._model, self._estimators, x, shift)
            self._compiled = self.compile(self._traced.graph)
        uniforms = [torch.rand(**draw, generator=generator) for draw in self._traced.draws]
        with torch.no_grad():
            state = {name: tensor.detach() for name, tensor in self._tensors.items()}
            gradients = self._compiled(state, x, shift, uniforms)
        value = gradients.pop(VALUE)
        require_finite("f(b)", value)
        for name, parameter in self._parameters.items():
            gradient = gradients.get(name)
            parameter.grad = None if gradient is None else laid_out_as(parameter, gradient)
        return value


class TracedGradient(NamedTuple):
    """What :func:`trace_gradient` gives.

    :param shape: of x
    :param draws: the arguments of ``torch.rand`` for each tensor of uniforms, in their order
    :param graph: a function of (state, x, shift, uniforms), in which nothing is drawn and nothing is kept but in the
        buffers of the state, which has the tensors of :func:`tensors_of` by their names. It gives f, ``[*batch]``,
        under the name ``f``, and the gradient of every parameter that has one under the parameter's
    """

    shape: torch.Size
    draws: list[dict[str, Any]]
    graph: GraphModule


def trace_gradient(model: DiscreteVAE, estimators: nn.ModuleList, x: Tensor, shift: Tensor) -> TracedGradient:
    """:func:`~sb3_relax.tasks.vae.objective.accumulate_gradient` as a graph of tensors alone.

    Being a function of tensors it can be compiled, captured in a CUDA graph, and mapped over models of several seeds by
    ``torch.vmap``.

    :param x: pixels, ``[*batch, D]``, whose shape alone counts
    :raises TypeError: for an estimator whose noise is not made of uniforms
    """
    both, tensors = _Accumulate(model, estimators), tensors_of(model, estimators)
    trained = {name: tensor.requires_grad for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}

    def gradients(
        state: Mapping[str, Tensor], x: Tensor, shift: Tensor, uniforms: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        leaves = {
            name: tensor.detach().requires_grad_(trained[name]) if name in trained else tensor
            for name, tensor in state.items()
        }
        with torch.enable_grad(), unchecked(), _Uniforms(uniforms):
            value = torch.func.functional_call(both, leaves, (x, shift))
        of_parameters = {name: leaves[name].grad for name in trained}
        return {VALUE: value, **{name: gradient for name, gradient in of_parameters.items() if gradient is not None}}

    with unchecked(), _Uniforms() as seen:
        estimate_gradient(model, estimators, x, None, shift)
    # of copies, as tracing runs what it traces
    state = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    traced = make_fx(gradients)(state, x, shift, [halves(**draw) for draw in seen.draws])
    for node in traced.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise TypeError(f"the estimators draw noise by {node.target}: only torch.rand can be compiled")
    return TracedGradient(x.shape, seen.draws, traced)


def tensors_of(model: DiscreteVAE, estimators: nn.ModuleList) -> dict[str, Tensor]:
    """Parameters and buffers of both, by the names that a :class:`TracedGradient` has for them."""
    both = _Accumulate(model, estimators)
    return dict(chain(both.named_parameters(), both.named_buffers()))


class _Accumulate(nn.Module):
    """Model and estimators as one module, for ``functional_call``."""

    def __init__(self, model: DiscreteVAE, estimators: nn.ModuleList):
        super().__init__()
        self.model = model
        self.estimators = estimators

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return accumulate_gradient(self.model, self.estimators, x, None, shift)


class _Uniforms(TorchFunctionMode):
    """Inside, ``torch.rand`` gives ``given`` one by one, or halves; its arguments are noted in ``draws``."""

    def __init__(self, given: Sequence[Tensor] | None = None):
        super().__init__()
        self.given = None if given is None else iter(given)
        self.draws: list[dict[str, Any]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is not torch.rand:
            return func(*args, **kwargs)
        kwargs.pop("generator", None)
        size = kwargs.pop("size", args[0] if len(args) == 1 and not isinstance(args[0], int) else args)
        draw = {"size": tuple(size), **kwargs}
        self.draws.append(draw)
        return halves(**draw) if self.given is None else next(self.given)


def halves(**draw: Any) -> Tensor:
    """In the place of uniforms where only their shape matters."""
    return torch.full(fill_value=0.5, **draw)
