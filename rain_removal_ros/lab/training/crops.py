"""Training samples: crops of examples, with rain, fog and camera faults rendered anew for each.

Sample i depends on the seed and i alone, so a run that is resumed sees exactly what it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from rain_removal_ros.cityscapes import UNLABELLED
from rain_removal_ros.errors import DatasetError
from rain_removal_ros.lab.data.examples import Dataset, Example
from rain_removal_ros.lab.weather import (
    PAPER_LEVELS,
    PATTERNS,
    Rain,
    RainParameters,
    StreakLayer,
    level_parameters,
)


@dataclass(frozen=True)
class CropSettings:
    """How samples are drawn. Shares are of all samples."""

    size: int = 256  # pixels, a multiple of 32
    scales: tuple[float, float] = (0.4, 1.3)  # how much an example is resized, log-uniform
    dry_share: float = 0.15
    fog_only_share: float = 0.05
    streaks_only_share: float = 0.10
    level_share: float = 0.65  # of rain: exactly RainCityscapes' three strengths, with patterns of our own
    light_share: float = 0.4
    sky_share: float = 0.5
    dark_fog_share: float = 0.4  # fog as dark as the scene; in the rest it is bright, however dark the scene
    noise_share: float = 0.2
    jpeg_share: float = 0.15
    blur_share: float = 0.1


def random_rain(generator: np.random.Generator) -> RainParameters:
    """Rain around and beyond RainCityscapes' three strengths: one to three layers, other shapes, thinner
    to denser.
    """
    alpha, beta, _ = list(PAPER_LEVELS.values())[generator.integers(3)]
    jitter = generator.uniform(0.6, 1.5)
    angle = generator.normal(0, 15)
    layers = []
    for _ in range(generator.integers(1, 4)):
        length = np.exp(generator.uniform(np.log(0.012), np.log(0.14)))
        density = np.exp(generator.uniform(np.log(0.0004), np.log(0.012))) * min(1.0, 0.04 / length)
        layers.append(
            StreakLayer(
                density=density,
                length=length,
                width=np.exp(generator.uniform(np.log(0.0008), np.log(0.0035))),
                strength=generator.uniform(0.2, 0.95),
                angle=float(np.clip(angle + generator.normal(0, 3), -45, 45)),
            )
        )
    return RainParameters(
        alpha=alpha * jitter,
        beta=beta * jitter * generator.uniform(0.6, 1.4),
        layers=tuple(layers),
        airlight=generator.uniform(0.65, 1.0),
        nearest=generator.uniform(2, 12),
    )


HELD_BYTES = 8 << 30
"""Datasets of more than this, decoded, are read from their files each time instead of held in memory."""


class RainySamples(TorchDataset):
    """Samples for restoration and for segmentation.

    Each is a dict: rainy and clean uint8 (3, S, S) RGB, streaks float16 (3, S, S), the light that streaks
    add, in [0, 1], NaN where the dataset has rain of its own, inverse_depth float16 (S, S) in 1/m with NaN
    where unknown, labels uint8 (S, S) with 255 where unlabelled. Where examples are held in memory they are
    drawn in proportion to the square root of how many their source has (a source is what stands before the
    first underscore of a name), so that one long sequence does not outweigh the rest; otherwise all alike.
    """

    def __init__(
        self, datasets: Sequence[Dataset], settings: CropSettings, seed: int, count: int, rain: bool = True
    ):
        self.settings, self.seed, self.count, self.rain = settings, seed, count, rain
        self._places = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
        if not self._places:
            raise DatasetError("no examples to train on; give at least one dataset with images")
        weights = np.ones(len(self._places))
        self._held: list[Example] | None = None
        if sum(len(dataset) * _size_of(dataset[0]) for dataset in datasets if len(dataset)) <= HELD_BYTES:
            self._held = [_trainable(dataset[index]) for dataset, index in self._places]
            sources = [example.name.split("_")[0] for example in self._held]
            weights = np.array([sources.count(source) ** -0.5 for source in sources])
        self._cumulative = np.cumsum(weights / weights.sum())

    @property
    def example_count(self) -> int:
        """How many examples samples are drawn from."""
        return len(self._places)

    def _draw(self, generator: np.random.Generator) -> Example:
        drawn = int(np.searchsorted(self._cumulative, generator.random()))
        drawn = min(drawn, len(self._places) - 1)
        if self._held is not None:
            return self._held[drawn]
        dataset, index = self._places[drawn]
        return _trainable(dataset[index])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        cv2.setNumThreads(0)
        generator = np.random.default_rng([self.seed, index])
        example = self._draw(generator)
        clean, rainy, depth, labels, reference_height = self._crop(example, generator)
        streaks = np.full(clean.shape, np.nan, np.float32)
        if rainy is None:
            if generator.random() < self.settings.light_share:
                clean = _other_light(clean, generator)
            if generator.random() < self.settings.sky_share:
                clean = other_sky(clean, depth == 0, generator)
            if generator.random() < self.settings.blur_share:
                clean = cv2.GaussianBlur(clean, (0, 0), generator.uniform(0.4, 1.2))
            if self.rain:
                rainy, clean, streaks = self._weather(clean, depth, reference_height, generator)
            else:  # what a segmentation network sees: dry, through a real camera
                rainy = clean = _camera_faults(clean, self.settings, generator)
        return {
            "rainy": torch.from_numpy(np.ascontiguousarray(rainy.transpose(2, 0, 1))),
            "clean": torch.from_numpy(np.ascontiguousarray(clean.transpose(2, 0, 1))),
            "streaks": torch.from_numpy(streaks.transpose(2, 0, 1).astype(np.float16)),
            "inverse_depth": torch.from_numpy(depth.astype(np.float16)),
            "labels": torch.from_numpy(np.ascontiguousarray(labels)),
        }

    def _crop(self, example: Example, generator: np.random.Generator) -> tuple:
        size = self.settings.size
        height, width = example.clean.shape[:2]
        scale = np.exp(generator.uniform(*np.log(self.settings.scales)))
        scale = max(scale, size / height, size / width)
        window = min(round(size / scale), height, width)
        top, left = generator.integers(0, height - window + 1), generator.integers(0, width - window + 1)
        flip = generator.random() < 0.5

        def cut(array: np.ndarray, interpolation: int) -> np.ndarray:
            part = array[top : top + window, left : left + window]
            part = part[:, ::-1] if flip else part
            return cv2.resize(np.ascontiguousarray(part), (size, size), interpolation=interpolation)

        smooth = cv2.INTER_AREA if window > size else cv2.INTER_LINEAR
        clean = cut(example.clean, smooth)
        rainy = None if example.rainy is None else cut(example.rainy, smooth)
        if example.inverse_depth is None:
            depth = np.full((size, size), np.nan, np.float32)
        else:
            depth = cut(example.inverse_depth, cv2.INTER_NEAREST)
        if example.labels is None:
            labels = np.full((size, size), UNLABELLED, np.uint8)
        else:
            labels = cut(example.labels, cv2.INTER_NEAREST)
        return clean, rainy, depth, labels, height * size / window

    def _weather(self, clean, depth, reference_height, generator) -> tuple[np.ndarray, ...]:
        """Rainy and clean crop, and the light of the streaks, R (1 - I), in [0, 1]."""
        settings = self.settings
        size = settings.size
        kind = generator.random()
        if kind < settings.dry_share:
            if generator.random() < settings.noise_share:
                clean = _camera_faults(clean, settings, generator)
            return clean, clean, np.zeros(clean.shape, np.float32)
        if np.isnan(depth).any():  # no depth: any plausible one does, farther towards the top
            near, far = generator.uniform(0.03, 0.3), generator.uniform(0.003, 0.03)
            depth = np.linspace(far, near, size, dtype=np.float32)[:, None].repeat(size, axis=1)
        if generator.random() < settings.level_share:
            level = list(PAPER_LEVELS)[generator.integers(len(PAPER_LEVELS))]
            parameters = level_parameters(level, seed=PATTERNS + int(generator.integers(1 << 30)))
            dark_fog = False
        else:
            parameters = random_rain(generator)
            dark_fog = generator.random() < settings.dark_fog_share
        airlight = parameters.airlight
        if dark_fog:
            airlight *= 0.3 + 0.7 * min(1.0, clean.mean() / 90)
        beta, layers = parameters.beta, parameters.layers
        if kind < settings.dry_share + settings.fog_only_share:
            layers = ()
        elif kind < settings.dry_share + settings.fog_only_share + settings.streaks_only_share:
            beta = 0.0
        parameters = RainParameters(parameters.alpha, beta, layers, airlight, parameters.nearest)
        rain = Rain(parameters, size, size, int(generator.integers(1 << 31)), reference_height)
        rainy, streaks = rain.render_with_streaks(clean, depth)
        light = streaks[..., None] * (1 - clean / np.float32(255))
        return _camera_faults(rainy, settings, generator), clean, light


def _trainable(example: Example) -> Example:
    if example.clean is None:
        raise DatasetError(f"{example.name} has no clean image; it can be looked at, but not trained on")
    return example


def _size_of(example: Example) -> int:
    """Bytes that an example takes in memory."""
    parts = (example.clean, example.rainy, example.inverse_depth, example.labels)
    return sum(part.nbytes for part in parts if part is not None)


def _other_light(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The same scene in other light, from bright noon to dusk, with a colour cast; now and then night.

    What the camera overexposed was brighter than it shows, and so stays brighter when the rest grows dark.
    """
    night = generator.random() < 0.04
    gain = np.exp(generator.uniform(*np.log((0.25, 0.6) if night else (0.9, 1.3))))
    gamma = generator.uniform(1.0, 1.8) if night else generator.uniform(0.7, 1.9)
    cast = gain * generator.normal(1, 0.04, 3)
    levels = (np.arange(256) / 255) ** gamma
    table = np.clip(255 * levels[:, None] * cast + 0.5, 0, 255).astype(np.uint8)
    changed = cv2.LUT(image, table.reshape(1, 256, 3))
    overexposed = np.clip((image.min(axis=2).astype(np.float32) - 215) / 40, 0, 1)[..., None]
    headroom = 1 + generator.uniform(0, 0.5) * overexposed
    return np.clip(changed * headroom + np.float32(0.5), 0, 255).astype(np.uint8)


def other_sky(image: np.ndarray, sky: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The same scene under another sky: clouds, a gradient and a tint, laid over what the camera overexposed.

    image: uint8 (H, W, 3) RGB; sky: bool (H, W). Nothing else changes, but for a soft edge of a pixel.
    """
    share = np.clip((image.min(axis=2).astype(np.float32) - 150) / 60, 0, 1) * sky
    if share.mean() < 0.01:
        return image
    share = cv2.GaussianBlur(share, (0, 0), 0.7)[..., None]
    height, width = sky.shape
    clouds = np.zeros((height, width), np.float32)
    for octave in range(5):
        noise = generator.standard_normal((2 << octave, 2 << octave)).astype(np.float32)
        clouds += 0.6**octave * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    clouds = cv2.normalize(clouds, None, 0, 1, cv2.NORM_MINMAX)
    slope = generator.uniform(-0.15, 0.15) * np.linspace(0, 1, height, dtype=np.float32)[:, None]
    bright = generator.uniform(0.9, 1.05)
    field = np.clip(bright * (1 - generator.uniform(0.1, 1.1) * (clouds - 0.3) - slope), 0.15, 1.05)
    blue = np.array((0.7, 0.87, 1.0)) ** (generator.uniform(0, 1) if generator.random() < 0.5 else 0)
    if generator.random() < 0.5:  # the tint between white clouds, or over all the sky
        tint = 1 + (blue - 1) * (1 - clouds[..., None])
    else:
        tint = np.broadcast_to(blue, (1, 1, 3))
    factor = 1 + share * (field[..., None] * tint.astype(np.float32) - 1)
    return np.clip(image * factor + np.float32(0.5), 0, 255).astype(np.uint8)


def _camera_faults(image: np.ndarray, settings: CropSettings, generator: np.random.Generator) -> np.ndarray:
    """Sensor noise and JPEG artefacts, each in its share of the samples."""
    if generator.random() < settings.noise_share:
        noise = generator.standard_normal(image.shape, dtype=np.float32) * np.float32(
            generator.uniform(0.5, 6)
        )
        image = np.clip(image + noise + 0.5, 0, 255).astype(np.uint8)
    if generator.random() < settings.jpeg_share:
        quality = int(generator.integers(50, 96))
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return image
