"""HybridRELAXA2C: A2C for actions of several parts, LAX on the continuous ones and RELAX on the discrete ones."""

from __future__ import annotations

from typing import ClassVar

from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.catalogue import HYBRID
from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient.flat_actions import FlatActions
from sb3_relax.policy_gradient.hyperparameters import DiscreteHyperparameters, Hyperparameters
from sb3_relax.relaxa2c_hybrid.policies import (
    HybridActorCriticCnnPolicy,
    HybridActorCriticPolicy,
    HybridMultiInputActorCriticPolicy,
)


class HybridRELAXA2C(ControlVariateA2C):
    """Advantage actor-critic for actions of several parts, with one control variate for all of them.

    For Dict and Tuple action spaces of Box, Discrete, MultiDiscrete and MultiBinary, nested or not. The parts are
    independent given the state: π(a|s) = Π π_i(a_i|s). Per step, with advantage Â, z the action with its discrete parts
    relaxed, and z̃ the same given the action that was executed::

        ĝ = [Â - ĉ(z̃, s)] ∂θ log π(a|s) + ∂θ ĉ(z, s) - ∂θ ĉ(z̃, s)

    A continuous part is its own relaxation, so this is LAX (Eq 5, 9) there, and RELAX (Eq 8, 10) in the discrete parts.
    ĉ reads all parts at once. Unbiased given the advantage estimator, for any ĉ, as LAXA2C and RELAXA2C are.

    ``predict()`` gives actions as the environment takes them: a dict or a tuple, or for several observations a list,
    which is what a VecEnv takes. Inside, ``model.action_space`` is a
    :class:`~sb3_relax.policy_gradient.FlatActions`, which has the actions as SB3's buffers hold them.

    For neither masks nor policies with a memory, and without gSDE.

    Arguments: A2C's, in its order; then, by keyword, those of
    :class:`~sb3_relax.policy_gradient.DiscreteHyperparameters` and its base.

    :raises ValueError: for another action space, another policy, ``use_sde``, ``correction="exact"``, or a
        hyper-parameter out of range

    Example::

        from sb3_relax import HybridRELAXA2C

        env.action_space  # Dict('move': Box(-1.0, 1.0, (2,), float32), 'tool': Discrete(3))
        model = HybridRELAXA2C("MlpPolicy", env)
        model.learn(100_000)
        action, _ = model.predict(obs)  # {'move': array([0.3, -1. ]), 'tool': 2}
    """

    action_spaces = (spaces.Dict, spaces.Tuple, FlatActions)
    policy_base = HYBRID
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": HybridActorCriticPolicy,
        "CnnPolicy": HybridActorCriticCnnPolicy,
        "MultiInputPolicy": HybridMultiInputActorCriticPolicy,
    }
    hyperparameters = DiscreteHyperparameters

    @property
    def action_space(self) -> spaces.Space:
        """The environment's actions, flat."""
        try:
            return vars(self)["action_space"]
        except KeyError:
            raise AttributeError("an agent without an environment has no action space yet") from None

    @action_space.setter
    def action_space(self, space: spaces.Space) -> None:
        # under its own name, where SB3's save() and load() look for it
        vars(self)["action_space"] = FlatActions.of(space)

    def check_hyperparameters(self) -> Hyperparameters:
        if self.use_sde:
            raise UsageError(
                f"{type(self).__name__} has no gSDE, whose noise is for Box actions alone: leave out use_sde"
            )
        return super().check_hyperparameters()

    def collect_steps(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        if isinstance(env.action_space, FlatActions):
            raise UsageError(
                f"{type(self).__name__} steps environments with actions in their parts, and this one takes flat ones: "
                "hand in the environment without the wrapper that flattens its actions"
            )
        return super().collect_steps(env, callback, rollout_buffer, n_rollout_steps)
