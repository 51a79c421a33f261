"""Made-up outputs that look like a strong ImageNet teacher's, where none is at hand.

Classes lie in groups of unequal size, so that they are confused with their neighbours. An image shows its
class, perhaps a second object, and something of its own; a view loses part of that and adds a context. A
little of the mass is spread widely, as label smoothing does. With 1,000 classes the mean top-1 probability
is about 0.77, the entropy 1.3 nats, and two views of an image share half of their ten most probable classes.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.random import Generator

WIDTH = 96
SHARPEN = 2.5 * 1.42


def simulate(images: int, views: int = 1, classes: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 [images], in random order, and log-probabilities float32 [views, images, classes]."""
    rng = np.random.default_rng(seed)
    world = World.draw(rng, classes)
    label = rng.permutation(images) % classes
    shown = Images.draw(rng, world, label)
    return label, np.stack([shown.output(rng, world) for _ in range(views)])


def rows_of_length_one(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum(1, keepdims=True))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def noise(rng: Generator, shape: tuple[int, ...], size: float) -> np.ndarray:
    return rng.standard_normal(shape, np.float32) * np.float32(size)


@dataclass(frozen=True)
class World:
    """The classes: directions in feature space, which lie in groups within a few families, and biases."""

    direction: np.ndarray
    bias: np.ndarray
    nearest: np.ndarray

    @classmethod
    def draw(cls, rng: Generator, classes: int) -> Self:
        groups = max(2, classes // 8)
        family = rng.standard_normal((12, WIDTH))
        centre = 0.9 * family[rng.integers(12, size=groups)] + rng.standard_normal((groups, WIDTH))
        share = rng.pareto(1.5, groups) + 0.3
        group = rng.choice(groups, classes, p=share / share.sum())
        direction = rows_of_length_one(centre[group] + 0.75 * rng.standard_normal((classes, WIDTH)))
        alike = direction @ direction.T - 10 * np.eye(classes)
        return cls(direction, noise(rng, (classes,), 0.35), np.argsort(-alike, axis=1)[:, :5])


@dataclass(frozen=True)
class Images:
    """What the images show: an object (now and then taken for a neighbour), a second one, and something private."""

    seen_as: np.ndarray
    second: np.ndarray
    second_strength: np.ndarray
    private: np.ndarray
    sharpness: np.ndarray
    texture: np.ndarray

    @classmethod
    def draw(cls, rng: Generator, world: World, label: np.ndarray) -> Self:
        n, classes = len(label), len(world.bias)
        difficulty = rng.gamma(1.2, size=n)
        mistaken = rng.random(n) < 0.05
        neighbour = world.nearest[label, rng.integers(world.nearest.shape[1], size=n)]
        private = rows_of_length_one(rng.standard_normal((n, WIDTH)))
        return cls(
            np.where(mistaken, neighbour, label),
            rng.integers(classes, size=n),
            rng.beta(1.2, 2.5, n) * (rng.random(n) < 0.3),
            private * (0.25 + 0.3 * difficulty)[:, None],
            (8.6 - 0.5 * difficulty.clip(max=5)) * SHARPEN,
            noise(rng, (n, classes), 0.3),
        )

    def output(self, rng: Generator, world: World) -> np.ndarray:
        """Log-probabilities of one view of every image, which shows a part of it in some context."""
        n, shape = len(self.seen_as), self.texture.shape
        crop = rng.uniform(0.08, 1, n)
        lost = 0.1 * rng.standard_normal(n).clip(-1.5, 3) + 0.3 * np.exp(-7 * crop)
        first = (1 - lost).clip(0.05, 1.3)
        second = self.second_strength * (1 + 0.45 * rng.standard_normal(n)).clip(0, 2.2)
        context = rows_of_length_one(rng.standard_normal((n, WIDTH))) * (0.75 + 0.5 * np.exp(-5 * crop))[:, None]
        feature = (
            world.direction[self.seen_as] * first[:, None]
            + world.direction[self.second] * second[:, None]
            + self.private
            + context
        )
        logit = (feature @ world.direction.T * self.sharpness[:, None]).astype(np.float32)
        sure = softmax(logit + self.texture + world.bias + noise(rng, shape, 0.5))
        smooth = softmax(0.8 * self.texture + noise(rng, shape, 0.35) + world.bias)
        part = (0.05 * np.exp(0.3 * rng.standard_normal((n, 1)))).astype(np.float32)
        return np.log((1 - part) * sure + part * smooth)
