"""``sb3-relax push_to_hub``: rl_zoo3's upload, with a model card that names our commands."""

from __future__ import annotations

import importlib
import runpy
from pathlib import Path
from typing import Any

import huggingface_hub.repocard

#: what rl_zoo3's card says → what runs an agent of ours
REPLACEMENTS = {
    "python -m rl_zoo3.": "python -m sb3_relax.zoo ",
    "pip install rl_zoo3": "pip install sb3_relax[zoo]",
}


def with_our_commands(card: str) -> str:
    """A model card whose commands know laxa2c and relaxa2c, which rl_zoo3's own do not."""
    for theirs, ours in REPLACEMENTS.items():
        card = card.replace(theirs, ours)
    return card


def generate_metadata(*args: Any) -> dict[str, Any]:
    """The function that rl_zoo3 imports from huggingface_sb3, where it now has a private name and another type."""
    # the package's attribute of this name is a function that hides the module
    module = importlib.import_module("huggingface_sb3.push_to_hub")
    return module._generate_metadata(*args).to_dict()


def main() -> None:
    """Upload as ``python -m rl_zoo3.push_to_hub`` does. Arguments: rl_zoo3's."""
    module = importlib.import_module("huggingface_sb3.push_to_hub")
    if not hasattr(module, "generate_metadata"):
        module.generate_metadata = generate_metadata  # type: ignore[attr-defined]
    save = huggingface_hub.repocard.metadata_save

    def save_with_our_commands(path: Path, metadata: dict[str, Any]) -> None:
        path.write_text(with_our_commands(path.read_text(encoding="utf-8")), encoding="utf-8")
        save(path, metadata)

    # rl_zoo3 writes the card and hands it on here; nothing else of its script can be reached from outside
    huggingface_hub.repocard.metadata_save = save_with_our_commands  # type: ignore[assignment]
    try:
        runpy.run_module("rl_zoo3.push_to_hub", run_name="__main__")
    finally:
        huggingface_hub.repocard.metadata_save = save


if __name__ == "__main__":
    main()
