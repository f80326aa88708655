"""What an algorithm's constructor takes, as ``inspect.signature`` and ``help()`` show it."""

from __future__ import annotations

from dataclasses import MISSING, fields
from inspect import Parameter, Signature, signature
from typing import Any


def full_signature(cls: Any) -> Signature:
    """The constructor's signature with the hyper-parameters of the class written out in the place of ``**kwargs``.

    ``preset`` comes after them, which :func:`~sb3_relax.algorithm.presets.takes_preset` adds.

    :param cls: an algorithm, whose constructor ends in ``**kwargs`` and whose ``hyperparameters`` is a dataclass
    """
    parameters = list(signature(cls.__init__).parameters.values())[1:-1]
    own = [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=field.type,
        )
        for field in fields(cls.hyperparameters)
    ]
    preset = Parameter("preset", Parameter.KEYWORD_ONLY, default=None, annotation="str | None")
    return Signature([*parameters, *own, preset])
