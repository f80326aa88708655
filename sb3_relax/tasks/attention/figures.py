"""Canvases with the glimpses that were taken of them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from sb3_relax.tasks.attention.canvases import CELL, GRID, Canvases, sheets

COLUMNS = 8


def draw_glimpses(path: Path, batch: Canvases, looked_at: Tensor, seen: Tensor) -> None:
    """Every canvas with its glimpses framed and numbered, green where the digit is; above it, what it was taken for.

    :param looked_at: cells, ``[T, B]``
    :param seen: classes, ``[B]``
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rows = -(-len(batch.label) // COLUMNS)
    figure = Figure(figsize=(1.2 * COLUMNS, 1.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    for number, (axis, sheet) in enumerate(zip(axes, sheets(batch.cells), strict=False)):
        axis.imshow(sheet.numpy(), cmap="gray", vmin=0, vmax=1)
        label, guess = batch.label[number].item(), seen[number].item()
        axis.set_title(f"{label}, seen as {guess}", fontsize=7, color="black" if label == guess else "C3")
        for glimpse, cell in enumerate(looked_at[:, number].tolist(), 1):
            row, column = divmod(cell, GRID)
            colour = "C2" if cell == batch.place[number] else "C3"
            corner = (column * CELL - 0.5, row * CELL - 0.5)
            axis.add_patch(Rectangle(corner, CELL, CELL, fill=False, color=colour, linewidth=1.5))
            if len(looked_at) > 1:
                axis.text(corner[0] + 3 * glimpse - 1, corner[1] + 4, str(glimpse), color=colour, fontsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
