"""What a training run went through, and when it had solved its task."""

from __future__ import annotations

import math

import numpy as np

from sb3_relax.compare.episodes import Episodes


class Recorder(Episodes):
    """Episodes and variances, and the first step at which the mean of the last returns reached the threshold.

    What a trajectory-wise control variate leaves is kept by itself, since the variances are those of advantages that it
    has already corrected.

    :param until_solved: stop there
    :param window: how many of the returns that are kept
    :param mean_of: episodes in a row of which one mean is kept; for a task whose episodes are single steps
    :raises ValueError: for a ``mean_of`` that is no number of episodes
    """

    def __init__(self, threshold: float, until_solved: bool = False, window: int = 100, mean_of: int = 1):
        super().__init__()
        if not isinstance(mean_of, int) or mean_of < 1:
            raise ValueError(f"mean_of must be a whole number of episodes, at least 1; got {mean_of}")
        self.mean_of = mean_of
        #: returns that are not yet as many
        self.waiting: list[float] = []
        self.threshold = threshold
        self.until_solved = until_solved
        self.window = window
        self.solved_at: int | None = None
        self.trajectory_ratios: list[tuple[int, float]] = []

    def ended(self, episode_return: float) -> None:
        """Keep the mean, as soon as there are enough."""
        self.waiting.append(episode_return)
        if len(self.waiting) == self.mean_of:
            super().ended(float(np.mean(self.waiting)))
            self.waiting.clear()

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        ratio = self.logger.name_to_value.get("train/trajectory_ratio", math.nan)
        if math.isfinite(ratio):
            self.trajectory_ratios.append((self.num_timesteps, ratio))

    def _on_step(self) -> bool:
        before = len(self.returns)
        super()._on_step()
        for end in range(max(before + 1, self.window), len(self.returns) + 1):
            if self.solved_at is None and np.mean(self.returns[end - self.window : end]) >= self.threshold:
                self.solved_at = self.num_timesteps
        return not (self.until_solved and self.solved_at is not None)
