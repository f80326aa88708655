"""The model that guesses what is drawn, and RELAX's control variate of a guess and the picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sb3_relax.estimators import Gaussian, GumbelOneHot, Joint
from sb3_relax.tasks.problem import HIDDEN, Baseline

#: units of every hidden layer of the guesser
UNITS = 128
#: numbers of a scene's place, such as x, y and the logarithm of its size, and its shapes
PLACE, N_SHAPES = 3, 3
#: standard deviations of a guess of the place, at least and at most: a third of a pixel, and about a scene's own
NARROWEST, WIDEST = 0.03, 0.4
#: what the networks of :class:`OfGuess` multiply the place by, whose standard deviation in scenes is about a third
SCALE = 3.0


def context_of(pixels: int) -> list[int]:
    """Sizes of what is in a context: the picture, then μ, log σ and the logits."""
    return [pixels, PLACE, PLACE, N_SHAPES]


def hidden_layers(pixels: int) -> nn.Sequential:
    """From a picture's numbers to what is known of it."""
    return nn.Sequential(nn.Linear(pixels, UNITS), nn.ReLU(), nn.Linear(UNITS, UNITS), nn.ReLU())


class Guesser(nn.Module):
    """A picture → a latent of what is in it: three normals for the place, three classes for the shape.

    A ReLU network with two hidden layers of 128. log σ is squashed by a sigmoid between :data:`NARROWEST` and
    :data:`WIDEST`: where the guess misses the picture f is flat, and σ would be of any size; and the score's variance
    grows as 1/σ². It begins at about .2. The context is the picture, and θ.

    The gradient at the place has 1/σ times the noise of that at the shape. Adam scales the steps of every weight by its
    own noise. So where place and shape share hidden layers, these learn little of what tells shapes apart: ``apart``
    gives the shape hidden layers of its own.

    :param pixels: numbers of a picture
    :param apart: whether place and shape have a network each
    """

    def __init__(self, pixels: int, apart: bool = False):
        super().__init__()
        self.hidden = hidden_layers(pixels)
        self.place = nn.Linear(UNITS, 2 * PLACE)
        self.shape = nn.Linear(UNITS, N_SHAPES)
        self.hidden_of_shape = hidden_layers(pixels) if apart else None

    def forward(self, picture: Tensor) -> Joint:
        """``[B, ...]`` → parts ``place`` ``[B, 3]`` and ``shape`` ``[B, 1, 3]``."""
        pixels = picture.flatten(1).float()
        known = self.hidden(pixels)
        loc, width = self.place(known).chunk(2, -1)
        log_scale = math.log(NARROWEST) + math.log(WIDEST / NARROWEST) * (width + 1).sigmoid()
        logits = self.shape(known if self.hidden_of_shape is None else self.hidden_of_shape(pixels))
        latent = Joint(place=Gaussian(loc, log_scale), shape=GumbelOneHot(logits.unsqueeze(-2)))
        return latent.with_context(torch.cat([pixels, loc, log_scale, logits], -1))


class OfGuess(nn.Module):
    """c(z, x, θ) = ⟨u(g), v(x)⟩ / 8 + w(g) + C(x, θ), of a guess z and the picture x.

    g is the relaxed guess: the place, the same less μ in units of σ, and the softmax of the relaxed shape. u and w are
    linear in the last of two tanh layers of g. v is the tanh of 64 projections of the picture, and C is what NVIL's
    baseline is. The product is there since an intersection is one, of what is drawn and of the picture. c starts at 0.

    :param pixels: numbers of a picture
    """

    def __init__(self, pixels: int):
        super().__init__()
        guess = 2 * PLACE + N_SHAPES
        self.of_guess = nn.Sequential(nn.Linear(guess, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh())
        self.drawn, self.alone = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 1)
        for layer in (self.drawn, self.alone):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.seen = nn.Linear(pixels, HIDDEN)
        self.parts = context_of(pixels)
        self.baseline = Baseline(sum(self.parts))

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        """``[..., B, 6]`` and ``[B, pixels + 9]`` → ``[..., B]``."""
        place, shape = z.split([PLACE, N_SHAPES], -1)
        picture, loc, log_scale, _ = context.split(self.parts, -1)
        noise = (place - loc) * (-log_scale).exp()
        guess = self.of_guess(torch.cat([noise, SCALE * place, shape.softmax(-1)], -1))
        agreement = (self.drawn(guess) * self.seen(picture).tanh()).sum(-1) / math.sqrt(HIDDEN)
        return agreement + self.alone(guess).squeeze(-1) + self.baseline(context)
