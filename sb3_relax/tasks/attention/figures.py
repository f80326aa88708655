"""Canvases with the glimpses that were taken of them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from sb3_relax.tasks.attention.canvases import CELL, GRID, Canvases, sheets
from sb3_relax.tasks.vae.images import grid

#: canvases in a row of the picture, and pixels from one to the next
COLUMNS, APART = 8, GRID * CELL + 1


def draw_glimpses(path: Path, batch: Canvases, looked_at: Tensor, seen: Tensor) -> None:
    """Every canvas with its glimpses framed and numbered, green where the digit is, and what it was taken for.

    :param looked_at: cells, ``[T, B]``
    :param seen: classes, ``[B]``
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    sheet = grid(sheets(batch.cells).flatten(1), (GRID * CELL, GRID * CELL), COLUMNS)
    height, width = sheet.shape
    figure = Figure(figsize=(10, 10 * height / width))
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.axis("off")
    axis.imshow(sheet.numpy(), cmap="gray", vmin=0, vmax=1)
    for number, (label, guess) in enumerate(zip(batch.label.tolist(), seen.tolist(), strict=True)):
        top, left = (APART * position for position in divmod(number, COLUMNS))
        for glimpse, cell in enumerate(looked_at[:, number].tolist(), 1):
            row, column = divmod(cell, GRID)
            colour = "C2" if cell == batch.place[number] else "C3"
            corner = (left + column * CELL - 0.5, top + row * CELL - 0.5)
            axis.add_patch(Rectangle(corner, CELL, CELL, fill=False, color=colour, linewidth=1.5))
            if len(looked_at) > 1:
                axis.text(corner[0] + 3 * glimpse - 2, corner[1] + 4, str(glimpse), color=colour, fontsize=6)
        words = f"{label}" if label == guess else f"{label}, seen as {guess}"
        axis.text(left + 1, top + 54, words, color="white" if label == guess else "C1", fontsize=7)
        axis.add_patch(Rectangle((left - 1, top - 1), APART, APART, fill=False, color="gray", linewidth=0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
