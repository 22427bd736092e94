"""Training samples: crops of examples, with rain, fog, light and camera faults rendered anew for each.

Sample i depends on the seed and i alone, so a run that is resumed sees exactly what it would have seen. All
that is random in it comes from one generator, and the order of the draws is part of that contract: who adds a
draw, or moves one, gives other samples to the same seed.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from rain_removal_ros.cityscapes import UNLABELLED
from rain_removal_ros.errors import DatasetError
from rain_removal_ros.lab.data.examples import Dataset, Example, outline_of
from rain_removal_ros.lab.training.fog import apparent_extinction, calm, random_airlight, with_the_fogs_sky
from rain_removal_ros.lab.weather import (
    MAX_DISTANCE,
    PAPER_LEVELS,
    PATTERNS,
    Rain,
    dense_parameters,
    distance_from_inverse_depth,
    fog_in_linear_light,
    level_parameters,
    rain_transmission,
)
from rain_removal_ros.lab.weather.lookalikes import LOOKALIKES, random_lookalike
from rain_removal_ros.lab.weather.streak_bank import StreakBank
from rain_removal_ros.runtime import ASSUMED_FOCAL


@dataclass(frozen=True)
class SampleSettings:
    """How samples are drawn. Shares are of all samples, or of those that can have what they say."""

    size: int = 256  # pixels, a multiple of 32: the height of a crop
    width: int | None = None  # likewise; None: as wide as high
    measured_weight: float = 1.0  # how much more often an example is drawn whose depth sensors measured
    scales: tuple[float, float] = (0.4, 1.3)  # how much an example is resized, log-uniform
    small_zoom: float = 1.0  # the largest of `scales` is at least what fills a crop, times this
    mirrored_share: float = 0.0  # of images smaller than a crop: continued by a mirror image, not enlarged
    dry_share: float = 0.14  # neither streaks nor fog
    fog_only_share: float = 0.16
    streaks_only_share: float = 0.18
    lookalike_share: float = 0.14  # scenes that look like rain or fog; see LOOKALIKES_DRY
    level_share: float = 0.3  # of streaks: RainCityscapes' three strengths and dense rain, other patterns
    paper_fog_share: float = 0.55  # of fog: around RainCityscapes' three strengths
    linear_fog_share: float = 0.3  # of fog: added in linear light, as a real one's is, not to grey levels
    overcast_share: float = 0.5  # of fog: before a sky of the fog's own light, as rain's and fog's skies are
    light_share: float = 0.3  # in other light, from noon to dusk
    toned_share: float = 0.4  # of those: the rendering of another camera instead
    noise_share: float = 0.2
    jpeg_share: float = 0.15
    sharpened_share: float = 0.1  # by the camera, after the weather
    blur_share: float = 0.1
    exposure_share: float = 0.12  # taken darker, scene and weather alike
    rendered_share: float = 0.0  # of weather: seen through another camera's tone curve and white balance
    leftover_share: float = 0.5  # where streaks were taken off by rendering, not by a network: some is left
    pictures: int = 320  # of streaks, in the bank

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a crop."""
        return self.size, self.width or self.size


LEAST_FOG = 1 / 255
"""What fog must change a crop by, on average, to be asked for: where it is thinner nobody sees any."""

HELD_BYTES = 8 << 30
"""Datasets of more than this, decoded, are read from their files each time instead of held in memory. The
processes of one machine, which hold a copy each, share it.
"""


@dataclass(frozen=True)
class _View:
    """A crop, all parts (H, W)."""

    clean: np.ndarray  # uint8 (H, W, 3)
    rainy: np.ndarray | None  # uint8 (H, W, 3): the dataset's own rain
    inverse_depth: np.ndarray  # float32, 1/m, NaN where unknown
    labels: np.ndarray  # uint8
    focal_px: float  # of the crop's pixels
    reference_height: float  # pixels of the whole view
    measured: bool  # whether the depth comes from sensors


@dataclass(frozen=True)
class Weathered:
    """What weather makes of a crop, float32 (H, W, 3) in [0, 1] where not said otherwise."""

    rainy: np.ndarray  # uint8
    target: np.ndarray  # uint8: clean, and calm where fog left nothing
    streaks: np.ndarray  # the light that streaks add; NaN: unknown
    rain: float  # 1 streaks fall, 0 they do not, NaN too few to say
    fog: float  # 1 there is some, 0 there is none, NaN too little to say, or nobody says
    extinction: float  # 1/m; NaN: unknown
    airlight: float = float("nan")  # of the fog, in [0, 1]; NaN: unknown, or no fog


@dataclass(frozen=True)
class _Fog:
    """Fog over a crop."""

    clean: np.ndarray  # uint8 (H, W, 3): the crop, maybe under a sky of the fog's own light
    target: np.ndarray  # uint8 (H, W, 3): what can be asked for behind it
    share: np.ndarray  # (H, W) in [0, 1]: how much of a pixel is the fog's light
    airlight: np.ndarray  # float32 (1, 1, 3) or (H, W, 3) in [0, 1]


LOOKALIKES_DRY = 0.6
"""Share of the look-alikes that stay dry whatever weather other samples get; the rest gets it too."""


class Sample(TypedDict):
    """One sample, or a batch of samples, whose tensors have a first dimension more."""

    rainy: Tensor  # uint8 (3, H, W) RGB
    clean: Tensor  # uint8 (3, H, W) RGB
    streaks: Tensor  # float16 (3, H, W): the light they add, in [0, 1]; NaN: the dataset has its own rain
    leftover: Tensor  # float32: the share of it that a sample for the fog alone keeps
    pixels_per_metre: Tensor  # float16 (H, W); NaN: unknown
    depth_measured: Tensor  # bool: by sensors, or no example's is; else it was derived
    rain: Tensor  # float32: 1, 0, NaN unknown
    fog: Tensor  # float32: 1, 0, NaN unknown
    extinction: Tensor  # float32, 1/m times focal length; NaN: unknown
    airlight: Tensor  # float32 in [0, 1]; NaN: unknown
    labels: Tensor  # uint8 (H, W); 255: unlabelled


class RainySamples(TorchDataset[Sample]):
    """Samples for restoration and for segmentation.

    Examples are drawn in proportion to the square root of how many their source has (a source is what stands
    before the first underscore of a name), so that one long sequence does not outweigh the rest, and by
    `measured_weight`. `digest` tells their names and order.
    """

    def __init__(
        self, datasets: Sequence[Dataset], settings: SampleSettings, seed: int, count: int, rain: bool = True
    ):
        self.settings, self.seed, self.count, self.rain = settings, seed, count, rain
        self._places = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
        if not self._places:
            raise DatasetError("no examples to train on; give at least one dataset with images")
        self._held: list[Example] | None = None
        if sum(_size_of(dataset) for dataset in datasets) <= _held_bytes():
            self._held = [_trainable(dataset[index]) for dataset, index in self._places]
        known = self._held or [outline_of(dataset, index) for dataset, index in self._places]
        self.digest = hashlib.sha256("\n".join(example.name for example in known).encode()).hexdigest()
        sources = [example.name.split("_")[0] for example in known]
        counts = Counter(sources)
        weights = np.array([counts[source] ** -0.5 for source in sources])
        measured = [example.depth_measured for example in known]
        weights[measured] *= settings.measured_weight
        self._any_measured = any(measured)
        self._cumulative = np.cumsum(weights / weights.sum())
        self._bank = StreakBank(settings.pictures if rain else 0, seed)

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

    def __getitem__(self, index: int) -> Sample:
        cv2.setNumThreads(0)
        settings = self.settings
        generator = np.random.default_rng([self.seed, index])
        view = _crop(self._draw(generator), settings, generator)
        clean = view.clean
        if view.rainy is not None and generator.random() < settings.dry_share:
            # taught nothing but rain, a network forgets what is dry
            weathered = _dry(clean, settings, generator)
        elif view.rainy is not None:
            unknown = np.full(clean.shape, np.nan, np.float32)
            # rain of its own with depth was rendered with fog by it; of any other nobody says
            fog = float("nan") if np.isnan(view.inverse_depth).all() else 1.0
            weathered = Weathered(view.rainy, clean, unknown, 1.0, fog, float("nan"))
        else:
            if generator.random() < settings.light_share:
                if generator.random() < settings.toned_share:
                    clean = LOOKALIKES["tone"](clean, view.inverse_depth, view.labels, generator)
                else:
                    clean = _other_light(clean, generator)
            if generator.random() < settings.blur_share:
                clean = cv2.GaussianBlur(clean, (0, 0), generator.uniform(0.4, 1.2))
            if self.rain:
                weathered = self._weather(clean, view, generator)
            else:  # what a segmentation network sees
                weathered = _dry(clean, settings, generator)
        leftover = generator.uniform(0, 0.35) if generator.random() < settings.leftover_share else 0.0

        def planes(image: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

        return {
            "rainy": planes(weathered.rainy),
            "clean": planes(weathered.target),
            "streaks": planes(weathered.streaks.astype(np.float16)),
            "leftover": torch.tensor(leftover, dtype=torch.float32),
            "pixels_per_metre": torch.from_numpy((view.inverse_depth * view.focal_px).astype(np.float16)),
            "depth_measured": torch.tensor(view.measured or not self._any_measured),
            "rain": torch.tensor(weathered.rain, dtype=torch.float32),
            "fog": torch.tensor(weathered.fog, dtype=torch.float32),
            "extinction": torch.tensor(weathered.extinction * view.focal_px, dtype=torch.float32),
            "airlight": torch.tensor(weathered.airlight, dtype=torch.float32),
            "labels": torch.from_numpy(np.ascontiguousarray(view.labels)),
        }

    def _weather(self, clean: np.ndarray, view: _View, generator: np.random.Generator) -> Weathered:
        """The crop as look-alike and exposure change it, in no weather, in streaks, in fog or in both."""
        settings, depth = self.settings, view.inverse_depth
        kind = generator.random()
        if generator.random() < settings.lookalike_share:
            clean = random_lookalike(clean, depth, view.labels, generator)
            if generator.random() < LOOKALIKES_DRY:
                kind = -1.0  # below every share
        exposure = np.float32(1)
        if generator.random() < settings.exposure_share:
            exposure = np.float32(generator.uniform(0.4, 0.9))
            clean = (exposure * clean + np.float32(0.5)).astype(np.uint8)
        if np.isnan(depth).any():
            depth = _plausible_depth(settings.shape, generator)
        fog_only = settings.dry_share + settings.fog_only_share
        if kind < settings.dry_share:  # through the same camera as in rain, or noise would tell of it
            return _dry(clean, settings, generator)
        has_streaks, has_fog = kind >= fog_only, not fog_only <= kind < fog_only + settings.streaks_only_share
        distance = distance_from_inverse_depth(depth)
        alpha, beta, _ = list(PAPER_LEVELS.values())[generator.integers(3)]
        fog = self._fog(clean, depth == 0, distance, beta, exposure, generator) if has_fog else None
        streaks, glow = np.zeros_like(depth), float(exposure)
        if has_streaks:
            streaks, brightness = self._streaks(view, distance, alpha, generator)
            glow *= brightness
        scene = (clean if fog is None else fog.clean).astype(np.float32) / 255
        light = streaks[..., None] * (glow - scene)
        foggy = scene if fog is None else self._behind(fog, scene, generator)
        seen = np.clip(foggy + light, 0, 1)
        target = clean if fog is None else fog.target
        airlight = None if fog is None else fog.airlight
        if generator.random() < settings.rendered_share:
            render = _random_rendering(generator)
            scene, foggy, seen = render(scene), render(foggy), render(seen)
            light = seen - foggy
            target = (255 * render(target.astype(np.float32) / 255) + np.float32(0.5)).astype(np.uint8)
            airlight = None if airlight is None else render(airlight)
        rain = 0.0
        if has_streaks:
            rain = float("nan") if float(streaks.mean()) < 0.004 else 1.0
        foggier = float(np.abs(foggy - scene).mean())
        return Weathered(
            rainy=_camera_faults((255 * seen + np.float32(0.5)).astype(np.uint8), settings, generator),
            target=target,
            streaks=light,
            rain=rain,
            fog=0.0 if airlight is None else float("nan") if foggier < LEAST_FOG else 1.0,
            extinction=0.0 if airlight is None else apparent_extinction(scene, foggy, airlight, distance),
            airlight=float("nan") if airlight is None else float(airlight.mean()),
        )

    def _fog(
        self,
        clean: np.ndarray,
        sky: np.ndarray,
        distance: np.ndarray,
        beta: float,
        exposure: np.float32,
        generator: np.random.Generator,
    ) -> _Fog:
        """Fog over a crop: around the strength beta in 1/m, or of any; even or drifting."""
        settings = self.settings
        if generator.random() < settings.paper_fog_share:
            beta *= generator.uniform(0.8, 1.25)
        else:
            beta = np.exp(generator.uniform(np.log(0.0015), np.log(0.05)))
        airlight = exposure * random_airlight(clean, generator)
        if generator.random() < settings.overcast_share:
            clean = with_the_fogs_sky(clean, sky, airlight, generator)
        target = calm(clean, sky, float(np.exp(-beta * MAX_DISTANCE)))
        thickness = beta * distance
        if generator.random() < 0.3:  # fog drifts
            bumps = int(generator.integers(2, 8))
            coarse = generator.normal(1, generator.uniform(0.05, 0.3), (bumps, bumps + 1)).astype(np.float32)
            thickness = thickness * cv2.resize(coarse, distance.shape[::-1], interpolation=cv2.INTER_CUBIC)
        return _Fog(clean, target, 1 - np.exp(-np.maximum(thickness, 0)), airlight)

    def _behind(self, fog: _Fog, scene: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The scene, float32 (H, W, 3) in [0, 1], behind fog that is added in linear light or to grey
        levels.
        """
        share = fog.share[..., None]
        if generator.random() < self.settings.linear_fog_share:
            return fog_in_linear_light(scene, share, fog.airlight)
        return scene * (1 - share) + fog.airlight * share

    def _streaks(
        self, view: _View, distance: np.ndarray, alpha: float, generator: np.random.Generator
    ) -> tuple[np.ndarray, float]:
        """How much of each pixel streaks cover, float32 (H, W) in [0, 1], and how bright they are beside
        white.
        """
        pattern = self._pattern(view, generator)
        alpha = 0.0 if generator.random() < 0.25 else alpha * generator.uniform(0.3, 1.4)
        streaks = pattern * rain_transmission(distance, alpha, generator.uniform(2, 12))
        # drops show the sky, which rain makes grey
        return streaks, generator.uniform(0.5, 1) if generator.random() < 0.4 else 1.0

    def _pattern(self, view: _View, generator: np.random.Generator) -> np.ndarray:
        """Float32 (H, W) in [0, 1]: rain of one of RainCityscapes' strengths, dense rain, or the bank's."""
        height, width = self.settings.shape
        if generator.random() >= self.settings.level_share:
            return self._bank.pattern(height, width, generator)
        seed = PATTERNS + int(generator.integers(1 << 30))
        level = int(generator.integers(len(PAPER_LEVELS) + 1))
        if level < len(PAPER_LEVELS):
            parameters = level_parameters(list(PAPER_LEVELS)[level], seed)
        else:
            parameters = dense_parameters(seed)
        return Rain(
            parameters, height, width, int(generator.integers(1 << 31)), view.reference_height
        ).pattern()


def _crop(example: Example, settings: SampleSettings, generator: np.random.Generator) -> _View:
    whole = _clean_of(example)
    height, width = whole.shape[:2]
    # the scale at which the image is as large as a crop
    least = max(wanted / side for wanted, side in zip(settings.shape, (height, width), strict=True))
    if least > 1 and generator.random() < settings.mirrored_share:
        least = max(1.0, least / 2)  # no pixel is mirrored twice
    low, high = settings.scales
    scale = max(least, np.exp(generator.uniform(np.log(low), np.log(max(high, settings.small_zoom * least)))))
    window = [round(side / scale) for side in settings.shape]
    rows, columns = (_placed(*each, generator) for each in zip((height, width), window, strict=True))
    flip = generator.random() < 0.5

    def cut(array: np.ndarray, interpolation: int) -> np.ndarray:
        part = array[rows[:, None], columns]
        part = part[:, ::-1] if flip else part
        return cv2.resize(np.ascontiguousarray(part), settings.shape[::-1], interpolation=interpolation)

    smooth = cv2.INTER_AREA if window[0] > settings.size else cv2.INTER_LINEAR
    if example.inverse_depth is None:
        depth = np.full(settings.shape, np.nan, np.float32)
    else:
        depth = cut(example.inverse_depth, cv2.INTER_NEAREST_EXACT)
    if example.labels is None:
        labels = np.full(settings.shape, UNLABELLED, np.uint8)
    else:
        labels = cut(example.labels, cv2.INTER_NEAREST_EXACT)
    focal = example.focal_px if example.focal_px is not None else ASSUMED_FOCAL * width
    return _View(
        clean=cut(whole, smooth),
        rainy=None if example.rainy is None else cut(example.rainy, smooth),
        inverse_depth=depth,
        labels=labels,
        focal_px=focal * settings.size / window[0],
        reference_height=height * settings.size / window[0],
        measured=example.depth_measured,
    )


def _placed(side: int, window: int, generator: np.random.Generator) -> np.ndarray:
    """The pixels of `side` that a window shows, anywhere in them; of a larger window, mirrored ones too."""
    start = int(generator.integers(min(0, side - window), max(0, side - window) + 1))
    period = max(1, 2 * (side - 1))
    place = np.arange(start, start + window) % period
    return np.minimum(place, period - place)


def _clean_of(example: Example) -> np.ndarray:
    if example.clean is None:
        raise DatasetError(f"{example.name} has no clean image; it can be looked at, but not trained on")
    return example.clean


def _trainable(example: Example) -> Example:
    _clean_of(example)
    return example


SIZED = 8
"""So many examples of a dataset, spread evenly, tell how much memory all of it takes."""


def _held_bytes() -> float:
    """What this process may hold of HELD_BYTES; torchrun and accelerate say how many the machine has."""
    return HELD_BYTES / int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _size_of(dataset: Dataset) -> float:
    """Bytes that the examples of a dataset take in memory, about."""
    if not len(dataset):
        return 0.0
    spread = np.unique(np.linspace(0, len(dataset) - 1, SIZED).round().astype(int))
    sizes = [
        sum(part.nbytes for part in vars(dataset[int(index)]).values() if isinstance(part, np.ndarray))
        for index in spread
    ]
    return len(dataset) * float(np.mean(sizes))


def _plausible_depth(shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """float32 (H, W) inverse depth in 1/m for a crop that has none: farther towards the top."""
    near, far = generator.uniform(0.03, 0.3), generator.uniform(0.003, 0.03)
    height, width = shape
    return np.linspace(far, near, height, dtype=np.float32)[:, None].repeat(width, axis=1)


def _dry(image: np.ndarray, settings: SampleSettings, generator: np.random.Generator) -> Weathered:
    """A crop in no weather, through a real camera."""
    seen = _camera_faults(image, settings, generator)
    return Weathered(seen, seen, np.zeros(seen.shape, np.float32), 0.0, 0.0, 0.0)


def _other_light(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The same scene in other light, from bright noon to dusk, with a colour cast; now and then night.

    What the camera overexposed was brighter than it shows, and so stays brighter when the rest grows dark.
    """
    night = generator.random() < 0.04
    gain = np.exp(generator.uniform(*np.log((0.25, 0.6) if night else (0.9, 1.3))))
    gamma = generator.uniform(1.0, 1.8) if night else generator.uniform(0.6, 1.9)
    cast = gain * generator.normal(1, 0.04, 3)
    levels = (np.arange(256) / 255) ** gamma
    table = np.clip(255 * levels[:, None] * cast + 0.5, 0, 255).astype(np.uint8)
    changed = cv2.LUT(image, table.reshape(1, 256, 3))
    overexposed = np.clip((image.min(axis=2).astype(np.float32) - 215) / 40, 0, 1)[..., None]
    headroom = 1 + generator.uniform(0, 0.5) * overexposed
    return np.clip(changed * headroom + np.float32(0.5), 0, 255).astype(np.uint8)


def _random_rendering(generator: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """What another camera makes of the same light, float32 (H, W, 3) in [0, 1] -> the same: a gamma, more or
    less contrast about the middle, and a white balance.

    Rendered after the weather, of scene, fog and streaks alike, as a camera does it. Where fog is added to
    grey levels that were rendered before, no fog is ever brightened or made harder.
    """
    gamma = np.float32(np.exp(generator.uniform(np.log(0.65), np.log(1.5))))
    contrast = np.float32(generator.uniform(-0.35, 0.5))
    balance = generator.normal(1, 0.015, 3).astype(np.float32)

    def render(image: np.ndarray) -> np.ndarray:
        level = np.clip(image * balance, 0, 1) ** gamma
        curve = level * level * (3 - 2 * level)  # an S; what is taken off instead of added flattens
        return np.clip(level + contrast * (curve - level), 0, 1)

    return render


def _camera_faults(image: np.ndarray, settings: SampleSettings, generator: np.random.Generator) -> np.ndarray:
    """Sensor noise, sharpening and JPEG artefacts, each in its share of the samples."""
    if generator.random() < settings.noise_share:
        noise: np.ndarray = generator.standard_normal(image.shape, dtype=np.float32)
        if generator.random() < 0.4:  # what a camera's interpolation and smoothing leave of it is coarser
            noise = cv2.GaussianBlur(noise, (0, 0), generator.uniform(0.5, 1))
            noise = noise / noise.std()
        strength = np.exp(generator.uniform(np.log(0.5), np.log(12)))
        noise *= np.float32(strength)
        if generator.random() < 0.3:  # of whole columns or rows, as a sensor's amplifiers differ
            shape = (1, image.shape[1]) if generator.random() < 0.7 else (image.shape[0], 1)
            pattern = generator.standard_normal((*shape, 1 if generator.random() < 0.7 else 3), np.float32)
            strength = np.exp(generator.uniform(np.log(0.5), np.log(8)))
            noise = (noise if generator.random() < 0.5 else 0) + np.float32(strength) * pattern
        image = np.clip(image + noise + 0.5, 0, 255).astype(np.uint8)
    if generator.random() < settings.sharpened_share:
        smooth = cv2.GaussianBlur(image, (0, 0), generator.uniform(0.6, 2))
        more = generator.uniform(0.2, 1.5)
        image = cv2.addWeighted(image, 1 + more, smooth, -more, 0)
    if generator.random() < settings.jpeg_share:
        quality = int(generator.integers(30, 96))
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = cv2.cvtColor(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)
    return image
