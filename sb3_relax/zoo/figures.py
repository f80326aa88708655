"""Where there is no screen, rl_zoo3's plots would be lost without a word: they are saved instead."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt

#: matplotlib's backends that draw to files alone, whose ``plt.show()`` does nothing
TO_FILES = frozenset(("agg", "cairo", "pdf", "pgf", "ps", "svg", "template"))


def save_unshown(stem: str) -> list[Path]:
    """Save what ``plt.show()`` could not show, as ``<stem>.png``, ``<stem>-2.png``, ... in the current folder.

    Figures without data, as rl_zoo3 has for environments without runs, are left out.

    :param stem: of the files' names
    :return: the files, none where figures are shown; an earlier one of the same name is replaced
    """
    if matplotlib.get_backend().lower() not in TO_FILES:
        return []
    files: list[Path] = []
    for figure in map(plt.figure, plt.get_fignums()):
        if any(axes.has_data() for axes in figure.axes):
            files.append(Path(f"{stem}-{len(files) + 1}.png" if files else f"{stem}.png"))
            figure.savefig(files[-1])
            print(f"No screen to show it on: saved {files[-1]}")
    if not files:
        print("Nothing to plot: no data (plot needs as many episodes as -w, 100 unless given)")
    plt.close("all")
    return files
