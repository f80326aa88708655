"""Small data, so that tests load nothing."""

import torch

from sb3_relax.tasks.vae.data import Dataset


def bits(n=200, pixels=12, binarised=True):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, pixels, generator=generator) * torch.rand(pixels, generator=generator)
    if binarised:
        x = (x > 0.3).float()
    return Dataset("bits", x, x[:40], x[:40], (3, 4), "bits", binarised)
