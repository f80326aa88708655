"""Data-parallel training on torch.distributed: gradients are averaged by hand.

Not by DistributedDataParallel: it would want the model and the estimators as one module, and it knows nothing of what
estimators remember of earlier batches, which is averaged as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist


class Worker(NamedTuple):
    """Which of how many processes this one is."""

    rank: int = 0
    processes: int = 1


def start(device: torch.device) -> Worker:
    """Join the processes that ``torchrun`` started (NCCL on CUDA, else gloo); a single one where there are none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Worker()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Worker(dist.get_rank(), dist.get_world_size())


def local_device(name: str) -> torch.device:
    """The device ``name``; of several GPUs that of this process.

    :raises ValueError: for another device, and for CUDA where there is none
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"--device {name}: there are cpu, cuda and cuda:N")
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device {name}: torch sees no CUDA device; use --device cpu")
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices, the first cuda:0")
        torch.cuda.set_device(device)
    return device


def wait_for_all(worker: Worker) -> None:
    """Let no process leave, and take its connections along, while another still works."""
    if worker.processes > 1:
        dist.barrier()


@torch.no_grad()
def average(tensors: Sequence[Tensor], worker: Worker) -> None:
    """Replace each tensor by its mean over all processes, in place, in one message."""
    if worker.processes == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= worker.processes
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
