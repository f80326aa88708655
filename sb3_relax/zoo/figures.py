"""Where there is no screen, rl_zoo3's plots would be lost without a word: they are saved instead."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.backends import BackendFilter, backend_registry


def save_unshown(stem: str) -> list[Path]:
    """Save what ``plt.show()`` could not show, as ``<stem>.png``, ``<stem>-2.png``, ... in the current folder.

    :param stem: of the files' names
    :return: the files, none where figures are shown; an earlier one of the same name is replaced
    """
    if matplotlib.get_backend().lower() not in backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE):
        return []
    files = []
    for count, number in enumerate(plt.get_fignums(), start=1):
        file = Path(f"{stem}-{count}.png" if count > 1 else f"{stem}.png")
        plt.figure(number).savefig(file)
        plt.close(number)
        print(f"No screen to show it on: saved {file}")
        files.append(file)
    return files
