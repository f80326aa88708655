"""Where there is no screen, rl_zoo3's plots would be lost without a word: they are saved instead."""

from __future__ import annotations

import matplotlib
from matplotlib import pyplot as plt

#: matplotlib's backends that draw to files alone, whose ``plt.show()`` does nothing
TO_FILES = frozenset(("agg", "cairo", "pdf", "pgf", "ps", "svg", "template"))


def save_unshown(stem: str) -> None:
    """Save what ``plt.show()`` could not show, as ``<stem>.png``, ``<stem>-2.png``, ... in the current folder.

    Earlier files of the same names are replaced. Figures without data, as of environments without runs, are
    left out.

    :param stem: of the files' names
    """
    if matplotlib.get_backend().lower() not in TO_FILES:
        return
    figures = [figure for figure in map(plt.figure, plt.get_fignums()) if any(axes.has_data() for axes in figure.axes)]
    for number, figure in enumerate(figures, start=1):
        file = f"{stem}.png" if number == 1 else f"{stem}-{number}.png"
        figure.savefig(file)
        print(f"No screen to show it on: saved {file}")
    if not figures:
        print("Nothing to plot: no data (plot needs as many episodes as -w, 100 unless given)")
    plt.close("all")
