"""The diagnosis: everything measured, in order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.algorithm.copies import frozen_copy, require_plain_policy
from sb3_relax.control_variates import Guarded
from sb3_relax.diagnose.continuations import Sample, continue_states, repeat
from sb3_relax.diagnose.cost import measure_cost
from sb3_relax.diagnose.gram import at_weights, fisher
from sb3_relax.diagnose.jackknife import Jackknifed, variance
from sb3_relax.diagnose.later_actions import LaterLuck, fit_with_later, trajectory_in
from sb3_relax.diagnose.moments import Split, Terms, removed_by_optimal_baseline, split
from sb3_relax.diagnose.parallel import Parallel
from sb3_relax.diagnose.report import Diagnosis, Number, Row
from sb3_relax.diagnose.restore import EnvSource
from sb3_relax.diagnose.rollout_gradients import (
    RolloutSteps,
    StepGradient,
    gradient_grams,
    prepared,
    rollouts,
    score_term,
)
from sb3_relax.diagnose.states import LEAST_EPISODES, visit
from sb3_relax.diagnose.variates import FITTING, STATE, corrections, fit_all, pooled, require_further, see, variates_of
from sb3_relax.diagnose.verdict import verdict
from sb3_relax.errors import UsageError, require_count, require_within
from sb3_relax.optional import require_extra
from sb3_relax.policy_gradient.flat_actions import FlatActions

#: Draws of the relaxation's noise per action.
DRAWS = 4

#: the least that each size may be
LEAST = {
    "n_states": LEAST_EPISODES,
    "n_actions": 2,
    "n_futures": 2,
    "n_episodes": LEAST_EPISODES,
    "n_rollouts": 4,
    "n_fit_steps": 1,
    "n_fit_updates": 1,
    "max_episode_steps": 1,
    "n_steps": 1,
}

Parts = dict[tuple[str, int], Split]
Fitted = dict[str, list[ControlVariateA2C]]


def diagnose(
    model: OnPolicyAlgorithm,
    env: str | Callable[[], gym.Env | VecEnv] | gym.Env | VecEnv,
    *,
    lambdas: Sequence[float] = (1.0, 0.95, 0.5, 0.0),
    n_steps: int | None = None,
    n_states: int = 512,
    n_actions: int = 8,
    n_futures: int = 2,
    n_episodes: int = 128,
    max_episode_steps: int = 1_000,
    n_rollouts: int = 200,
    n_fit_steps: int = 16_384,
    n_fit_updates: int = 1_000,
    control_variates: Sequence[str] = (),
    confidence: float = 0.95,
    seed: int = 0,
    progress: Callable[[str], None] = lambda message: None,
) -> Diagnosis:
    """Where the variance of an agent's policy gradient comes from, and what a control variate can do about it.

    At the agent's policy as it is (nothing of the agent changes), the variance of one step's gradient, summed over the
    policy's weights, is split by the law of total variance into Σ_τ (the future, given state and action), Σ_a (the
    action, given the state) and Σ_s (the state), after Tucker et al., *The Mirage of Action-Dependent Baselines* (2018,
    https://arxiv.org/abs/1802.10031), section 3; relaxation adds noise of its own. Without a baseline, with the agent's
    V(s), with the variance-optimal state baseline b(s, steps left in the rollout), with ĉ of LAX (Box) or RELAX and
    the exact correction (discrete actions), and with a state baseline ĉ(s), which tells what of their gain is the
    actions', each fitted per λ on rollouts of its own. What ĉ does here, where the
    policy waits for it, is the most to expect of it in training, where the policy moves on. The split needs states to
    be continued from more than once (see :class:`~sb3_relax.diagnose.restore.EnvSource`); without that, only the
    variance over repeated rollouts is given.

    Advantages are as GAE gives them: ``normalize_advantage`` is ignored, since it makes steps of a batch depend on each
    other.

    Sampling errors: a jackknife over episodes (parts) and over 20 independent streams of rollouts (rollouts), each with
    environments of fresh seeds that are first stepped on to a random place in their episodes (see
    :func:`~sb3_relax.diagnose.streams.streams`); within a stream, rollouts follow each other as in training and may
    share episodes. Not covered: that V, ĉ and the agent itself came out as they did.

    :param model: LAXA2C, RELAXA2C, A2C or PPO; its γ, V and rollout length are used
    :param env: an id, a function that makes one, an environment, or a VecEnv of one (VecNormalize with
        ``training=False``). With gSDE, every step has a noise matrix of its own
    :param lambdas: of GAE, 1 (returns up to the rollout's end) to 0
    :param n_steps: of a rollout, where bootstrapping begins; the model's where ``None``
    :param n_states: states, from ``n_episodes`` episodes of at most ``max_episode_steps``
    :param n_actions: actions of each state, at least 2
    :param n_futures: continuations of each action, at least 2
    :param n_rollouts: repeated rollouts, at least 4
    :param n_fit_steps: environment steps that ĉ is fitted on, in whole rollouts: at least one, and a fifth that is held
        out
    :param n_fit_updates: steps of φ
    :param control_variates: further ones to measure, each a row: names of
        :data:`~sb3_relax.control_variates.CONTROL_VARIATES`, such as ``"model"`` for the step's own action,
        ``"trajectory"`` for later ones, or both, as ``"trajectory+model"``. Each takes about the time that LAX or RELAX
        takes, and one of later actions more
    :param confidence: of the intervals
    :param seed: of everything random; neither torch's nor NumPy's own generators are touched
    :param progress: told what is being done
    :raises UsageError: (a ``ValueError``) for a size out of range, or an environment that cannot be measured in
    :raises ValueError: for spaces that do not fit the model
    :raises TypeError: for an agent that is not an actor-critic, or whose policy needs action masks or recurrent
        states, or gives actions of several parts
    :raises ModuleNotFoundError: without scipy

    Example::

        from sb3_relax.diagnose import diagnose

        result = diagnose(RELAXA2C.load("agent"), "LunarLander-v3")
        print(result.sentence)
        result.save("diagnosis.json")
    """
    require_plain_policy(model)
    if isinstance(model.action_space, FlatActions):
        raise TypeError(
            f"the policy of {type(model).__name__} gives actions of several parts, which diagnose() does not take. Use "
            "GradientVarianceCallback, which measures the variance while the agent trains"
        )
    if isinstance(control_variates, str):
        raise UsageError(f"control_variates must be a list of names, such as [{control_variates!r}]")
    settings: dict[str, Any] = {
        "lambdas": list(lambdas), "n_steps": n_steps or model.n_steps, "n_envs": model.n_envs, "gamma": model.gamma,
        "n_states": n_states, "n_actions": n_actions, "n_futures": n_futures, "n_episodes": n_episodes,
        "max_episode_steps": max_episode_steps, "n_rollouts": n_rollouts, "n_fit_steps": n_fit_steps,
        "n_fit_updates": n_fit_updates, "control_variates": [*dict.fromkeys(control_variates)],
        "confidence": confidence, "seed": seed,
    }  # fmt: skip
    check_settings(settings)
    require_extra("diagnose", "scipy")
    source = EnvSource(env)
    whole_episodes = getattr(model, "n_episodes", None) is not None and n_steps is None
    # rollouts of n_steps bootstrap at a time limit, as SB3's do
    by_steps: dict[str, Any] = {} if whole_episodes else {"n_episodes": None, "bootstrap_truncated": True}
    # noise matrices as the continuations have them, whose steps each have one of their own
    base = frozen_copy(model, seed, n_steps=settings["n_steps"], sde_sample_freq=1, **by_steps)
    settings["normalize_advantage"] = base.normalize_advantage
    streams = iter(np.random.SeedSequence(seed).generate_state(8) % 2**30)
    with th.random.fork_rng():
        th.manual_seed(int(next(streams)))
        progress(f"fitting ĉ at λ = {', '.join(f'{each:g}' for each in lambdas)}")
        fitted = _fit(model, base, _parallel(source, base, next(streams)), settings, int(next(streams)))
        progress(f"{n_rollouts} repeated rollouts")
        over_rollouts = _over_rollouts(base, _parallel(source, base, 0), fitted, settings, int(next(streams)))
        parts: Parts = {}
        if source.restore is not None:
            progress(f"{n_states} states × {n_actions} actions × {n_futures} futures, continued by {source.restore}")
            states = visit(base.policy, source, n_states, n_episodes, max_episode_steps, int(next(streams)))
            sample = continue_states(
                base.policy,
                states,
                n_actions,
                n_futures,
                lambdas,
                base.gamma,
                None if whole_episodes else base.n_steps,
                np.random.default_rng(int(next(streams))),
                bootstrap_truncated=base.bootstrap_truncated,
                of_later=LaterLuck(base, later) if (later := of_later_actions(fitted)) else None,
            )
            parts = _parts(base, sample, fitted)
        progress("timing updates")
        timed = frozen_copy(
            model, seed, n_steps=settings["n_steps"], n_episodes=None, bootstrap_truncated=True, **FITTING
        )
        cost = measure_cost(timed, _parallel(source, base, next(streams)))
    rows = _rows(parts, over_rollouts, fitted, lambdas, confidence)
    algorithm = type(base).__name__
    return Diagnosis(algorithm, source.restore, rows, cost, verdict(algorithm, rows, cost), settings)


def check_settings(settings: Mapping[str, Any]) -> None:
    """What :func:`diagnose` is told to do can be done.

    :param settings: its arguments, all or some, by name
    :raises UsageError: for one out of range
    """
    for name, least in LEAST.items():
        if name in settings:
            require_count(name, settings[name], low=least)
    for gae_lambda in settings.get("lambdas", ()):
        require_within("lambdas", gae_lambda, 0, 1)
    require_further(settings.get("control_variates", ()))
    if "confidence" in settings:
        require_within("confidence", settings["confidence"], 0.5, 1 - 1e-9)


def _parallel(source: EnvSource, model: ControlVariateA2C, seed: int) -> Parallel:
    return Parallel([source.new(int(seed) + i) for i in range(model.n_envs)])


def _fit(model: OnPolicyAlgorithm, base: ControlVariateA2C, env: VecEnv, settings: dict[str, Any], seed: int) -> Fitted:
    """A control variate of each kind for each λ."""
    generator = th.Generator().manual_seed(seed)
    further, wanted, n_updates = settings["control_variates"], settings["n_fit_steps"], settings["n_fit_updates"]
    variates = [variates_of(model, seed + i, further, settings["n_steps"]) for i in range(len(settings["lambdas"]))]
    batches: list[RolloutSteps] = []
    size, seen, n_seen = 0, 0, 0
    for batch in rollouts(base, env, sys.maxsize, settings["lambdas"]):
        batches.append(pooled([batch]))
        size += batch.advantages.shape[1]
        if seen == 0 or size <= wanted * 4 // 5:  # the last fifth is kept from them, of rollouts however long
            seen, n_seen = size, len(batches)
            for i, of_lambda in enumerate(variates):
                for name in further:
                    see(of_lambda[name], batches[-1], i, of_lambda[name].noise_generator)
        if size >= wanted and seen <= size * 4 // 5:
            break
    data = pooled(batches)
    fitted: Fitted = {name: [of_lambda[name] for of_lambda in variates] for name in variates[0]}
    for models in fitted.values():  # further ones last, so that these change nothing of the others
        if trajectory_in(models[0]) is None:
            fit_all(models, data.output, data.advantages, n_updates, generator)
            continue
        for i, model in enumerate(models):
            fit_with_later(model, batches, n_seen, data.output, i, n_updates, generator)
    return fitted


def _over_rollouts(
    base: ControlVariateA2C, env: VecEnv, fitted: Fitted, settings: dict[str, Any], seed: int
) -> dict[tuple[str, int], Jackknifed]:
    """The variance of a whole rollout's gradient."""

    def with_value(steps: RolloutSteps, i: int) -> th.Tensor:
        return score_term(steps.output, steps.advantages[i])

    def without(steps: RolloutSteps, i: int) -> th.Tensor:
        return score_term(steps.output, steps.advantages[i] + steps.output.values.detach())

    def with_variate(models: list[ControlVariateA2C]) -> StepGradient:
        def gradient(steps: RolloutSteps, i: int) -> th.Tensor:
            variate, noise = models[i].control_variate, models[i].noise_generator
            return variate.gradient(steps.output, prepared(variate, steps, i, noise), noise).grad

        return gradient

    estimators: dict[str, StepGradient] = {"none": without, "V(s)": with_value}
    estimators |= {name: with_variate(models) for name, models in fitted.items()}
    grams, groups = gradient_grams(base, env, settings["n_rollouts"], settings["lambdas"], estimators, seed)
    return {(name, i): variance(gram, groups) for name, of_name in grams.items() for i, gram in enumerate(of_name)}


def _parts(base: ControlVariateA2C, sample: Sample, fitted: Fitted) -> Parts:
    """Every estimator's split at every λ."""
    n_states, n_actions = sample.actions.shape[:2]
    actions = th.as_tensor(sample.actions.reshape(n_states * n_actions, -1), device=base.device)
    observations = base.policy.obs_to_tensor(sample.observations)[0]
    output = base.view.evaluate(base.policy.obs_to_tensor(repeat(sample.observations, n_actions))[0], actions)

    def by_state(x: th.Tensor) -> th.Tensor:
        """``[..., S·A, *event]`` → ``[S, A, ..., d]``."""
        x = x.detach().double().cpu().flatten(-output.latent.event_ndim)
        x = x.reshape(*x.shape[:-2], n_states, n_actions, x.shape[-1])
        return x.movedim((-3, -2), (0, 1))

    score = by_state(output.latent.score(output.sample))
    advantages = th.from_numpy(sample.advantages)
    left = dict.fromkeys(["V(s)", *fitted], advantages)  # of Â by each, of which only some change it
    for name, luck in zip(of_later_actions(fitted), sample.luck, strict=True):
        known = np.isfinite(luck).all(axis=(1, 2, 3), keepdims=True)  # as in training, all of it or nothing
        left[name] = advantages - th.from_numpy(np.where(known, luck, 0.0))
    values = th.from_numpy(sample.values)[:, None, None]
    information = fisher(base.view.evaluate(observations, actions[::n_actions]).latent).cpu()
    nothing = th.zeros(n_states, n_actions, 1, score.shape[-1], dtype=th.float64)
    corrected: dict[str, list[th.Tensor]] = {"V(s)": [nothing] * len(advantages)}
    for name, models in fitted.items():
        draws = DRAWS if models[0].control_variate.draws_noise else 1
        corrected[name] = [by_state(corrections(model, output, draws)) for model in models]
    # E[ĝ | s] and E ĝ are the same for all. They are read off one that is fixed beforehand and likely the least noisy
    quiet = list(corrected)[-1]
    means = th.stack(
        [
            (x.mean(2).unsqueeze(-1) * score + h.mean(2)).mean(1)
            for x, h in zip(left[quiet], corrected[quiet], strict=True)
        ]
    )
    gram, squares_of_means = at_weights(base, observations, actions[::n_actions], means, sample.episodes)
    parts: Parts = {}
    for i, (of_lambda, square_of_mean) in enumerate(zip(advantages, squares_of_means, strict=True)):
        terms = Terms(of_lambda, score, nothing, gram, square_of_mean, sample.episodes)
        for name, of_name in corrected.items():
            parts[name, i] = split(terms._replace(advantages=left[name][i], correction=of_name[i]))
        parts["none", i] = split(terms._replace(advantages=of_lambda + values))
        removed = removed_by_optimal_baseline(terms, information)
        parts["best b(s)", i] = parts["V(s)", i]._replace(action=parts["V(s)", i].action - removed)
        state = parts[quiet, i].state
        parts |= {key: part._replace(state=state) for key, part in parts.items() if key[1] == i}
    return parts


def of_later_actions(fitted: Fitted) -> Fitted:
    """Those that take something of later actions."""
    return {name: models for name, models in fitted.items() if trajectory_in(models[0]) is not None}


def _shares(model: ControlVariateA2C | None) -> tuple[float | None, float | None]:
    """Of what is applied to the step's own action, and to later ones."""
    if model is None:
        return None, None
    assert isinstance(model.control_variate, Guarded)
    later = trajectory_in(model)
    return model.control_variate.share, None if later is None else later.share


def _rows(
    parts: Parts,
    over_rollouts: dict[tuple[str, int], Jackknifed],
    fitted: Fitted,
    lambdas: Sequence[float],
    confidence: float,
) -> list[Row]:
    names = ["none", "V(s)", *(["best b(s)"] if parts else []), *fitted]
    # what the sentence reads: one share per λ; per variate and λ the ratios of a step and of rollouts, the latter
    # also to ĉ(s)'s, and beside_best
    variates = len(fitted) - 1
    read = len(lambdas) * ((1 + 4 * variates) if parts else 2 * variates)
    joint = 1 - (1 - confidence) / read
    rows = []
    for i, gae_lambda in enumerate(lambdas):
        for name in names:
            own = parts.get((name, i))
            numbers = {}
            if own is not None:
                numbers = {part: Number.of(value, confidence) for part, value in own._asdict().items()}
                numbers["total"] = Number.of(own.total, confidence)
                if name == "V(s)":
                    numbers["action_share"] = Number.of(own.action / own.total, joint)
                else:
                    numbers["ratio"] = Number.of(own.total / parts["V(s)", i].total, joint)
                if name in fitted:
                    difference = own.total - parts["best b(s)", i].total
                    numbers["beside_best"] = Number.of(difference / parts["V(s)", i].total, joint)
            whole = over_rollouts.get((name, i))
            if whole is not None:
                numbers["rollouts"] = Number.of(whole, confidence)
                if name != "V(s)":
                    numbers["rollouts_ratio"] = Number.of(whole / over_rollouts["V(s)", i], joint)
                if name in fitted and name != STATE:
                    numbers["beside_state"] = Number.of(whole / over_rollouts[STATE, i], joint)
            share, later_share = _shares(fitted[name][i] if name in fitted else None)
            rows.append(Row(name, gae_lambda, share=share, later_share=later_share, **numbers))
    return rows
