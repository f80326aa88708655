"""Kernels that can be differentiated twice, in the place of faster ones that cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch as th
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def twice_differentiable(module: nn.Module) -> Iterator[None]:
    """What runs in here has a second derivative: attention by plain operations, recurrent layers without cuDNN.

    :param module: that runs; cuDNN, whose convolutions have a second derivative, is left out only where it has
        recurrent layers
    """
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(part, nn.RNNBase) for part in module.modules()):
            stack.enter_context(th.backends.cudnn.flags(enabled=False))
        yield
