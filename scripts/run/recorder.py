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
    :param window: of how many episodes
    :param mean_of: episodes of which the mean is kept, as that of one; for a task whose episodes are single steps
    """

    def __init__(self, threshold: float, until_solved: bool = False, window: int = 100, mean_of: int = 1):
        super().__init__()
        self.mean_of = mean_of
        self.together: list[float] = []
        self.threshold = threshold
        self.until_solved = until_solved
        self.window = window
        self.solved_at: int | None = None
        self.trajectory_ratios: list[tuple[int, float]] = []

    def keep(self, episode_return: float) -> None:
        self.together.append(episode_return)
        if len(self.together) == self.mean_of:
            super().keep(float(f"{np.mean(self.together):.6g}"))
            self.together.clear()

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
