"""Which pixels of a digit to show: one decision of 64 bits, and a classifier that is a black box."""

from __future__ import annotations

from functools import lru_cache

import gymnasium as gym
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

CLASSES = range(10)
#: times that the classifier sees every image, each with its own pixels hidden
COPIES = 8
EPOCHS = 30


class PixelChoice(gym.Env):
    """Choose the pixels by which a classifier knows a digit, and no more of them than it needs.

    The observation is one of scikit-learn's 1,797 images of 8 × 8 pixels, from 0 to 1; the action has a bit for each
    pixel, 1 where it is shown. The reward is log p(digit | what is shown) by a network that has seen images with any
    part of them hidden, less ``cost`` for each pixel that is shown. That is a step, and an episode. Choosing inputs for
    each image so is INVASE (Yoon et al. 2019, https://openreview.net/forum?id=BJg_roAcK7), which is trained by
    REINFORCE with a baseline of the state. The network has learned from the same images: it is a part of the task, as a
    simulator is.

    :param cost: of a pixel, in nats
    """

    def __init__(self, cost: float = 0.05):
        self.cost = cost
        self.images, self.digits = digits()
        n_pixels = self.images.shape[1]
        self.observation_space = gym.spaces.Box(0, 1, (n_pixels,), np.float32)
        self.action_space = gym.spaces.MultiBinary(n_pixels)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.index = int(self.np_random.integers(len(self.images)))
        return self.images[self.index].copy(), {}

    def step(self, action):
        shown = np.asarray(action, np.float32)
        image, digit = self.images[self.index], self.digits[self.index]
        log_p = classifier().predict_log_proba(seen(image, shown)[np.newaxis])[0, digit]
        return image.copy(), float(log_p - self.cost * shown.sum()), True, False, {}


@lru_cache(maxsize=1)
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images ``[N, 64]``, from 0 to 1, and which digit each is."""
    images, labels = load_digits(return_X_y=True)
    return (images / images.max()).astype(np.float32), labels


def seen(images: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """What the classifier reads: the pixels that are shown, 0 for the others, and which they are."""
    return np.concatenate([images * shown, np.broadcast_to(shown, images.shape)], axis=-1)


@lru_cache(maxsize=1)
def classifier() -> MLPClassifier:
    """The same for every environment. Of an image any share of the pixels is hidden while it learns."""
    images, labels = digits()
    rng = np.random.default_rng(0)
    shown = rng.random((COPIES, *images.shape)) < rng.random((COPIES, len(images), 1))
    inputs = np.concatenate([seen(images, each) for each in shown.astype(np.float32)])
    network = MLPClassifier((64,), random_state=0)
    for _ in range(EPOCHS):
        network.partial_fit(inputs, np.tile(labels, COPIES), classes=CLASSES)
    return network
