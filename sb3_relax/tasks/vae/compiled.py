"""The gradient of one batch as one compiled graph.

Half of an iteration's time is the bookkeeping of several hundred small operations. ``torch.compile`` by itself does not
get behind ``autograd.grad``, let alone the second derivatives of REBAR and RELAX; ``make_fx`` writes down what was
done in the end, backward passes included, and that compiles.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor_config
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from sb3_relax.estimators.functions import require_finite, unchecked
from sb3_relax.tasks.vae.model import DiscreteVAE
from sb3_relax.tasks.vae.objective import accumulate_gradient, estimate_gradient


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
    """What :func:`~sb3_relax.tasks.vae.objective.accumulate_gradient` does, traced and compiled for one shape of x.

    The numbers are the same to rounding: the same uniforms are drawn from the same generator in the same order. Tracing
    and compiling takes about a minute (once: torch keeps the result on disk), and needs a C++ compiler on a CPU.

    :param model: the model
    :param estimators: one for each layer
    :param compile: what is done with the traced graph, such as ``partial(torch.compile, mode="reduce-overhead")``

    Example::

        gradient = CompiledGradient(model, estimators)
        f = gradient(x, generator, shift)
    """

    def __init__(
        self,
        model: DiscreteVAE,
        estimators: nn.ModuleList,
        compile: Callable[[GraphModule], Callable[..., list[Tensor]]] = torch.compile,
    ):
        self.compile = compile
        self._both = _Accumulate(model, estimators)
        # views of the storage that the optimizer changes in place
        self._state = {
            name: tensor.detach() for name, tensor in (*self._both.named_parameters(), *self._both.named_buffers())
        }
        self._shape: torch.Size | None = None
        self._draws: list[dict[str, Any]] = []
        self._names: list[str] = []
        self._graph: Callable[..., list[Tensor]]

    def __call__(self, x: Tensor, generator: torch.Generator, shift: Tensor) -> Tensor:
        """Set ``.grad`` of every parameter, θ's uphill, φ's downhill; f, ``[*batch]``, detached.

        :raises TypeError: for an estimator whose noise is not made of uniforms
        :raises ValueError: for a value of f that is not finite
        """
        if x.shape != self._shape:
            self._trace(x, shift)
        uniforms = [torch.rand(**draw, generator=generator) for draw in self._draws]
        with torch.no_grad():
            value, *gradients = self._graph(self._state, x, shift, uniforms)
        require_finite("f(b)", value)
        for name, gradient in zip(self._names, gradients, strict=True):
            self._both.get_parameter(name).grad = gradient
        return value

    def _trace(self, x: Tensor, shift: Tensor) -> None:
        with unchecked(), _Uniforms() as seen:
            estimate_gradient(self._both.model, self._both.estimators, x, None, shift)
        self._draws = seen.draws
        uniforms = [torch.rand(**draw) for draw in self._draws]
        # of copies, as tracing runs what it traces. Not the method itself: make_fx would count self among its arguments
        state = {name: tensor.clone() for name, tensor in self._state.items()}
        traced = make_fx(lambda *arguments: self._gradients(*arguments))(state, x, shift, uniforms)
        for node in traced.graph.nodes:
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise TypeError(f"the estimators draw noise by {node.target}: only torch.rand can be compiled")
        self._graph = self.compile(traced)
        self._shape = x.shape

    def _gradients(
        self, state: Mapping[str, Tensor], x: Tensor, shift: Tensor, uniforms: Sequence[Tensor]
    ) -> list[Tensor]:
        """f, and the gradients of ``self._names``."""
        parameters = dict(self._both.named_parameters())
        leaves = {
            name: tensor.detach().requires_grad_() if name in parameters else tensor for name, tensor in state.items()
        }
        with torch.enable_grad(), unchecked(), _Uniforms(uniforms):
            value = torch.func.functional_call(self._both, leaves, (x, shift))
        gradients = {name: leaves[name].grad for name in parameters if leaves[name].grad is not None}
        self._names = list(gradients)
        return [value, *gradients.values()]


class _Accumulate(nn.Module):
    """Model and estimators as one module, for ``functional_call``."""

    def __init__(self, model: DiscreteVAE, estimators: nn.ModuleList):
        super().__init__()
        self.model = model
        self.estimators = estimators

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return accumulate_gradient(self.model, self.estimators, x, None, shift)


class _Uniforms(TorchFunctionMode):
    """Inside, ``torch.rand`` gives one of ``given`` after the other; its arguments are noted in ``draws``."""

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
        self.draws.append({"size": args if isinstance(args[0], int) else tuple(args[0]), **kwargs})
        return func(*args, **kwargs) if self.given is None else next(self.given)
