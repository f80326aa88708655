"""The README's GIF: one episode of a trained agent of agents/, deterministic.

    python -m scripts.docs.gif [--env LunarLander-v3] [--algo relaxa2c] [--seed 0] [--output .]

Needs pygame-ce for classic control and Box2D.
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_relax import LAXA2C, RELAXA2C
from scripts.records import ROOT, add_output

CLASSES = {"laxa2c": LAXA2C, "relaxa2c": RELAXA2C}


def frames(algorithm: str, env_id: str, seed: int, every: int) -> list[np.ndarray]:
    """One episode's frames, ``[height, width, 3]``, every few steps."""
    folder = ROOT / "agents" / algorithm / f"{env_id}_1"
    env = make_vec_env(env_id, seed=seed, env_kwargs={"render_mode": "rgb_array"})
    statistics = folder / env_id / "vecnormalize.pkl"
    if statistics.exists():
        env = VecNormalize.load(str(statistics), env)
        env.training = env.norm_reward = False
    model = CLASSES[algorithm].load(folder / f"{env_id}.zip", device="cpu")
    observation, done, seen = env.reset(), False, []
    step = 0
    while not done:
        if step % every == 0:
            seen.append(env.render())
        observation, _, (done,), _ = env.step(model.predict(observation, deterministic=True)[0])
        step += 1
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", default="relaxa2c", choices=CLASSES)
    parser.add_argument("--env", default="LunarLander-v3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=5, help="steps from frame to frame")
    parser.add_argument("--width", type=int, default=300, help="in pixels")
    add_output(parser, "agents/lunarlander.gif")
    arguments = parser.parse_args()
    images = []
    for frame in frames(arguments.algo, arguments.env, arguments.seed, arguments.every):
        height = round(arguments.width * frame.shape[0] / frame.shape[1])
        images.append(Image.fromarray(frame).resize((arguments.width, height)).quantize(32, dither=Image.Dither.NONE))
    # 20 frames a second; the last is held
    durations = [50] * (len(images) - 1) + [1500]
    path = arguments.output / "agents" / "lunarlander.gif"
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True)
    print(f"{path}: {len(images)} frames, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
