"""RecurrentRELAXA2C: RELAXA2C with sb3-contrib's LSTM policies."""

from __future__ import annotations

from sb3_relax.algorithm.recurrent import Recurrent
from sb3_relax.relaxa2c.relaxa2c import RELAXA2C


class RecurrentRELAXA2C(Recurrent, RELAXA2C):
    """RELAXA2C with an LSTM in the policy, for states that one observation does not show, as RecurrentPPO has it.

    For Discrete, MultiDiscrete and MultiBinary actions and sb3-contrib's recurrent policies (``"MlpLstmPolicy"``,
    ``"CnnLstmPolicy"``, ``"MultiInputLstmPolicy"`` or a subclass of ``RecurrentActorCriticPolicy``; sizes in
    ``policy_kwargs``: ``lstm_hidden_size``, ``n_lstm_layers``, ``enable_critic_lstm``, ``shared_lstm``). ĉ reads what
    the actor's LSTM gives, detached. With ``cv_learning_rate=0`` it is A2C over the same policy.

    The gradient goes back through time to the start of a rollout at most: ``n_steps`` should be longer than A2C's 5
    where what must be remembered is older. sb3-contrib's buffer also cuts one environment's rollout in two at a random
    step of each update, as in RecurrentPPO, so with few environments it often goes back less far. With ``n_episodes``
    it goes back to the start of the episode, but for one episode that is cut so.

    Arguments: those of :class:`~sb3_relax.RELAXA2C`. Needs sb3-contrib: ``pip install sb3_relax[contrib]``. For action
    masks: :class:`~sb3_relax.MaskableRecurrentRELAXA2C`.

    :raises ValueError: for a policy that is not recurrent, or what RELAXA2C refuses

    Example::

        from sb3_relax import RecurrentRELAXA2C

        model = RecurrentRELAXA2C("MlpLstmPolicy", "CartPole-v1", n_steps=32)
        model.learn(100_000)
        action, state = model.predict(obs, state=state, episode_start=episode_start)
    """
