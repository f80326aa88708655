"""A second model with the same policy, to measure with: nothing of the first is touched."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.algorithm.older_files import fitted_to
from sb3_relax.catalogue import HYBRID, load, takers
from sb3_relax.errors import UsageError, refuse_unknown_arguments
from sb3_relax.policy_gradient.hyperparameters import ATTRIBUTES, hyperparameters_of

#: hyper-parameters that a copy does not share: it has a seed of its own, and its policy learns nothing
OF_TRAINING = (
    "learning_rate",
    "critic_learning_rate",
    "normalize_returns",
    "n_critic_steps",
    "critic_batch_size",
    "critic_replay",
    "critic_lambda",
    "update_rule",
    "target_kl",
    "momentum",
)
NOT_COPIED = (*OF_TRAINING, "seed")


def algorithm_of(action_space: spaces.Space) -> type[ControlVariateA2C]:
    """LAXA2C for Box actions, RELAXA2C for the others.

    :raises UsageError: for spaces that neither takes
    """
    names = takers(action_space, None)
    if not names:
        advice = "flatten it to a Box or discrete one"
        if takers(action_space, HYBRID):
            advice += (
                ". HybridRELAXA2C trains with it, and sb3_relax.callbacks.GradientVarianceCallback measures its "
                "gradient while it does"
            )
        raise UsageError(f"neither LAXA2C nor RELAXA2C takes the action space {action_space}: {advice}")
    return load(names[0])


def require_plain_policy(model: BaseAlgorithm) -> None:
    """Refuse agents whose policy needs more than observations: masks or recurrent states would silently be left out.

    :raises TypeError: for an agent that is not an on-policy actor-critic, or a maskable or recurrent one
    """
    takes = "it takes LAXA2C, RELAXA2C, A2C and PPO"
    if not isinstance(model, OnPolicyAlgorithm):
        raise TypeError(f"the agent must be on-policy with an actor and a critic: {takes}; got {type(model).__name__}")
    needs = {"action_masks": "action masks", "lstm_states": "recurrent states"}
    # by what the policy is called with: so it holds for sb3-contrib's agents and subclasses, installed or not
    for name in signature(model.policy.forward).parameters:
        if name in needs:
            raise TypeError(
                f"the policy of {type(model).__name__} needs {needs[name]}, which measuring the variance of the "
                f"gradient does not support: {takes}. For other policies: every algorithm of sb3_relax logs "
                "train/grad_variance_ratio while it trains, which is below 1 where the control variate helps"
            )


def frozen_copy(
    model: OnPolicyAlgorithm, seed: int, *, with_control_variate: bool = True, **overrides: Any
) -> ControlVariateA2C:
    """The model's policy in a LAXA2C or RELAXA2C of its own, with ĉ, its scale and its share where the model has them.

    Neither the model nor any stream of random numbers is touched: the copy has weights, buffers and relaxation noise of
    its own. It has no environment; ``set_env`` gives it one.

    :param model: an agent with an ``ActorCriticPolicy``: LAXA2C, RELAXA2C, A2C, PPO
    :param seed: of the copy's relaxation noise
    :param with_control_variate: whether the model's ĉ is copied; otherwise the copy's is as a constructor leaves it
    :param overrides: hyper-parameters of the copy, such as ``n_steps=64``. One that makes another control variate
        (``cv_action_dependent=False``) needs ``with_control_variate=False``
    :raises TypeError: for an agent without such a policy, or with a maskable or recurrent one
    :raises UsageError: where the overrides make a control variate that the model's weights do not fit

    Example::

        copy = frozen_copy(model, seed=0, n_steps=64, cv_guard=False)
    """
    require_plain_policy(model)
    kind = type(model) if isinstance(model, ControlVariateA2C) else algorithm_of(model.action_space)
    refuse_unknown_arguments(kind, overrides, {*signature(kind).parameters, "n_envs"} - {"preset"})
    copied = {name: value for name, value in hyperparameters_of(model).items() if name not in NOT_COPIED}
    own = {ATTRIBUTES.get(name, name): value for name, value in {**copied, **overrides}.items()}
    own |= {name: getattr(model, name) for name in ("observation_space", "action_space")}
    with th.random.fork_rng():
        copy = kind(model.policy_class, None, device=model.device, _init_setup_model=False)  # type: ignore[arg-type]
        for name, value in own.items():
            setattr(copy, name, value)
        copy._setup_model()
    copy.policy.load_state_dict(model.policy.state_dict())
    copy.policy.set_training_mode(False)
    if isinstance(model, ControlVariateA2C):
        copy.expected_steps.load_state_dict(model.expected_steps.state_dict())
        copy.advantage_scale.load_state_dict(model.advantage_scale.state_dict())
        if with_control_variate:
            # of the rest, the copy's own: its update rule and V's optimizer are not looked for in the model
            state = {**copy.get_parameters(), "control_variate": model.control_variate.state_dict()}
            copy.control_variate.load_state_dict(fitted_to(copy, state)["control_variate"])
    copy.seed_noise(seed)
    return copy
