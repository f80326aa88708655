"""Trained agents for other programs: as ONNX, as TorchScript, and as an A2C of SB3's own.

``pip install sb3_relax[export]`` for ONNX.
"""

from sb3_relax.export.controller import Controller
from sb3_relax.export.onnx import to_onnx
from sb3_relax.export.plain_a2c import to_a2c
from sb3_relax.export.torchscript import to_torchscript

__all__ = ["Controller", "to_a2c", "to_onnx", "to_torchscript"]
