"""The table of our hyper-parameters, from the dataclass that has them."""

from __future__ import annotations

import re
from dataclasses import fields
from inspect import getdoc, signature

from sb3_relax import RELAXA2C
from sb3_relax.algorithm.presets import PRESETS
from sb3_relax.policy_gradient import DiscreteHyperparameters, Hyperparameters


def table() -> str:
    """A row for each: its name, its default, and what its docstring says."""
    meanings = described(Hyperparameters) | described(DiscreteHyperparameters)
    rows = ["| argument | default | what it does |", "|---|---|---|"]
    for field in fields(DiscreteHyperparameters):
        alone = "" if field.name in Hyperparameters.names() else "Discrete actions alone. "
        rows.append(f"| `{field.name}` | `{field.default!r}` | {alone}{meanings[field.name]} |")
    names = ", ".join(f"`{name!r}`" for name in PRESETS)
    rows.append(f"| `preset` | `None` | Values for everything that is not given, A2C's arguments included: {names} |")
    return "\n".join(rows)


def preset_table(name: str) -> str:
    """A row for each argument that a preset sets: its value, its default, and why."""
    defaults = signature(RELAXA2C).parameters
    rows = ["| argument | value | default | why |", "|---|---|---|---|"]
    for argument, (value, why) in PRESETS[name].items():
        rows.append(f"| `{argument}` | `{value!r}` | `{defaults[argument].default!r}` | {why} |")
    return "\n".join(rows)


def described(cls: type) -> dict[str, str]:
    """Name → what a class's docstring says of that parameter, on one line, in Markdown."""
    entries = re.findall(r"^:param (\w+): (.+?)(?=^:|\Z)", getdoc(cls) or "", re.MULTILINE | re.DOTALL)
    return {name: markdown(" ".join(text.split())) for name, text in entries}


def markdown(text: str) -> str:
    """Sphinx's markup → Markdown's; a sentence begins with a capital."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`").replace("|", "\\|")
    return text if not text[0].isascii() else text[0].upper() + text[1:]
