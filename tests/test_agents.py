"""The agents that come with the repository load, and do what their score says."""

import json
from pathlib import Path

import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_relax import LAXA2C, RELAXA2C

AGENTS = sorted(path.parent for path in (Path(__file__).resolve().parent.parent / "agents").glob("*/*/score.json"))


def test_there_are_agents():
    assert len(AGENTS) >= 4


@pytest.mark.parametrize("folder", AGENTS, ids=lambda folder: folder.name)
def test_an_agent_loads_is_small_and_scores(folder):
    score = json.loads((folder / "score.json").read_text())
    env_id = score["env"]
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 1_000_000
    assert (folder / env_id / "command.txt").read_text().startswith("sb3-relax train ")
    if env_id.startswith("LunarLander"):
        pytest.importorskip("pygame", reason="Box2D's environments need pygame-ce (LGPL): pip install pygame-ce")
    env = make_vec_env(env_id, n_envs=4, seed=7)
    if (folder / env_id / "vecnormalize.pkl").exists():
        env = VecNormalize.load(str(folder / env_id / "vecnormalize.pkl"), env)
        env.training = env.norm_reward = False
    cls = LAXA2C if score["algorithm"] == "laxa2c" else RELAXA2C
    model = cls.load(folder / f"{env_id}.zip", device="cpu")
    mean, _ = evaluate_policy(model, env, n_eval_episodes=4)
    assert mean >= score["score"]["mean"] - 3 * score["score"]["std"] / 2 - 1e-6
