"""The last steps that a control variate has seen."""

from __future__ import annotations

import torch as th


class RecentSteps:
    """So many of the last rows that were added; older ones are overwritten.

    All rows that are added at once are kept, however many: of a rollout that comes environment after environment, none
    is left out.

    :param size: rows that are kept, which grows to the most that were added at once
    """

    #: rows that are drawn at once
    batch_size = 1024

    def __init__(self, size: int = 8192):
        self.size = size
        self.columns: tuple[th.Tensor, ...] = ()
        self.n_added = 0

    def __len__(self) -> int:
        return min(self.n_added, self.size)

    def add(self, *columns: th.Tensor) -> None:
        """Keep rows.

        :param columns: ``[N, ...]`` each; the same ones at every call
        """
        n_rows = len(columns[0])
        if not self.columns or n_rows > self.size:  # where they fill all there is, no earlier one would stay
            self.size, self.n_added = max(n_rows, self.size), 0
            self.columns = tuple(column.new_empty(self.size, *column.shape[1:]) for column in columns)
        rows = th.arange(self.n_added, self.n_added + n_rows, device=columns[0].device) % self.size
        for kept, column in zip(self.columns, columns, strict=True):
            kept[rows] = column
        self.n_added += n_rows

    def draw(self, generator: th.Generator) -> tuple[th.Tensor, ...]:
        """A batch of rows at random, each as likely as any other; all of them, where there are no more.

        Where nothing was added yet there are no columns.
        """
        if len(self) <= self.batch_size:
            return tuple(column[: len(self)] for column in self.columns)
        rows = th.randint(len(self), (self.batch_size,), generator=generator, device=self.columns[0].device)
        return tuple(column[rows] for column in self.columns)

    def in_order(self) -> tuple[th.Tensor, ...]:
        """All rows, the oldest first."""
        start = self.n_added % self.size if self.n_added > self.size else 0
        return tuple(column[: len(self)].roll(-start, 0) for column in self.columns)

    def draw_in_order(self, ends: int, generator: th.Generator) -> tuple[th.Tensor, ...]:
        """Rows that follow each other, from a random one on.

        They are a batch and, up to the next end of what belongs together, some more. Where nothing was added yet there
        are no columns.

        :param ends: the column that is 0 in the last row of what belongs together
        """
        columns = self.in_order()
        if not columns:
            return ()
        start = int(
            th.randint(max(len(self) - self.batch_size, 0) + 1, (), generator=generator, device=generator.device)
        )
        further = (columns[ends][start + self.batch_size - 1 :] == 0).nonzero()
        stop = start + self.batch_size + int(further[0]) if len(further) else len(self)
        return tuple(column[start:stop] for column in columns)
