"""Checkpoints during training, each of which training goes on from exactly."""

from __future__ import annotations

from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_relax.algorithm.continuation import require_in_process
from sb3_relax.algorithm.persistence import Persistence
from sb3_relax.algorithm.vec_normalize import save_vec_normalize
from sb3_relax.errors import UsageError


class ExactCheckpointCallback(CheckpointCallback):
    """SB3's ``CheckpointCallback``, from whose files training goes on as if it had never been interrupted.

    Its arguments are the same. A file is written by ``model.save(..., exact=True)``: see there what it has more than
    SB3's. It is due every ``save_freq`` steps as SB3's is, and written at the end of the update that follows, since
    nothing could go on from the middle of a rollout; its name has the number of steps made by then. A kill leaves no
    file that is not whole, and of VecNormalize's (``save_vecnormalize``) neither.

    :raises TypeError: where it is used with another algorithm than those of this package
    :raises UsageError: (a ``ValueError``) for environments in other processes, and inside a callback such as
        ``EveryNTimesteps``, which passes on no ends of updates. Both are raised when ``learn()`` begins

    Example::

        model.learn(1_000_000, callback=ExactCheckpointCallback(10_000, "checkpoints"))

        # in another process, with environments that are made as those were
        model = RELAXA2C.load("checkpoints/rl_model_500000_steps", env=env)
        callback = ExactCheckpointCallback(10_000, "checkpoints")
        model.learn(model.remaining_timesteps, callback=callback, reset_num_timesteps=False)
    """

    #: whether a file is to be written as soon as an update has ended
    due = False

    def _init_callback(self) -> None:
        if not isinstance(self.model, Persistence):
            raise TypeError(
                "ExactCheckpointCallback saves what the algorithms of sb3_relax go on from; got "
                f"{type(self.model).__name__}, for which there is stable_baselines3's CheckpointCallback"
            )
        if self.parent is not None:
            raise UsageError(
                f"ExactCheckpointCallback waits for the end of an update, which {type(self.parent).__name__} does not "
                "pass on to the callback in it: give it to learn() itself, with the save_freq that you want"
            )
        require_in_process(self.training_env)
        self.due = False
        super()._init_callback()

    def _on_step(self) -> bool:
        self.due = self.due or self.n_calls % self.save_freq == 0
        return True

    def _on_rollout_start(self) -> None:
        self._save_if_due()

    def _on_training_end(self) -> None:
        self._save_if_due()

    def _save_if_due(self) -> None:
        if not self.due:
            return
        self.due = False
        assert isinstance(self.model, Persistence)
        statistics = self.model.get_vec_normalize_env()
        if self.save_vecnormalize and statistics is not None:
            save_vec_normalize(statistics, self._checkpoint_path("vecnormalize_", extension="pkl"))
        path = self._checkpoint_path(extension="zip")
        self.model.save(path, exact=True)
        if self.verbose >= 2:
            print(f"Saved an exact checkpoint to {path}")
