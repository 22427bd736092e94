"""How a run does on images that it does not learn from: what its averaged weights restore, at checkpoints.

Views are rendered once, with an evaluation's rain, and nothing is drawn from a run's random numbers: with and
without it a run ends with the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rain_removal_ros.lab.data.examples import Dataset, Example, outline_of
from rain_removal_ros.lab.evaluation import metrics
from rain_removal_ros.lab.evaluation.conditions import fog_of, rain_on
from rain_removal_ros.lab.evaluation.views import in_turns, sky_of
from rain_removal_ros.lab.weather import PAPER_LEVELS
from rain_removal_ros.network.blocks import Estimate
from rain_removal_ros.network.presets import STRIDE
from rain_removal_ros.runtime import Output
from rain_removal_ros.runtime.graph import FrameGraph

FIGURES = ("psnr_gain", "psnr_gain_below", "psnr_dry")
"""What is measured, in dB, each the mean over groups of the mean over a group's views: how much nearer to the
truth rainy views come, everywhere and below the sky, and how near dry images stay.
"""


@dataclass(frozen=True)
class Validation:
    """What a run is measured on: at most so many images of a dataset, spread over all its groups."""

    dataset: Dataset
    images: int = 8


@dataclass(frozen=True)
class _View:
    """An image as it comes and as it should be, uint8 (H, W, 3) both, of one group."""

    group: str
    seen: np.ndarray
    wanted: np.ndarray
    below: np.ndarray | None  # bool (H, W): what is not sky; None: unknown, or nothing

    @property
    def dry(self) -> bool:
        return self.seen is self.wanted


class Validator:
    """The views of a validation, in memory, for a run that trains one of PARTS.

    The whole network is measured on rain of RainCityscapes' three strengths, or on the rain of the dataset;
    the streak stage alone on how near it comes to the same fog without streaks; what learns from samples
    whose streaks were taken off, on that fog.
    """

    def __init__(self, validation: Validation, part: str, device: torch.device):
        """Renders the views. Raises DatasetError where an image lacks what rain is rendered with."""
        self._part, self._device = part, device
        dataset = validation.dataset
        groups: dict[str | None, list[int]] = {}
        for index in range(len(dataset)):
            groups.setdefault(outline_of(dataset, index).group, []).append(index)
        chosen = in_turns(list(groups.values()), validation.images)
        self._views = [view for index in chosen for view in self._views_of(dataset[index])]

    def _views_of(self, example: Example) -> Iterator[_View]:
        clean, group = example.clean_image, example.group or "all"
        sky = sky_of(example)
        below = None if sky is None or sky.all() else ~sky
        yield _View(group, clean, clean, below)
        if self._part == "all" and example.rainy is not None:
            yield _View(group, example.rainy, clean, below)
            return
        for level in PAPER_LEVELS:
            if self._part == "streaks":
                yield _View(group, rain_on(example, level).rainy, fog_of(example, level), below)
            elif self._part in ("fog", "depth"):
                yield _View(group, fog_of(example, level), clean, below)
            else:
                yield _View(group, rain_on(example, level).rainy, clean, below)

    @torch.no_grad()
    def measure(self, network: nn.Module) -> dict[str, float]:
        """FIGURES of a derain network in evaluation mode on the device; NaN where no view tells."""
        measured: Any = {name: {} for name in FIGURES}
        trained = {"streaks": _Streaks, "fog": _Fog, "depth": _Fog}.get(self._part)
        shown = trained(network) if trained else network
        for view in self._views:
            restored = self._restored(shown, view.seen)
            if view.dry:
                measured["psnr_dry"].setdefault(view.group, []).append(metrics.psnr(restored, view.wanted))
                continue
            places = {"psnr_gain": None} | ({} if view.below is None else {"psnr_gain_below": view.below})
            for name, where in places.items():
                came, left = (metrics.psnr(image, view.wanted, where) for image in (view.seen, restored))
                measured[name].setdefault(view.group, []).append(left - came)
        return {name: _mean_over_groups(by_group) for name, by_group in measured.items()}

    def _restored(self, network: nn.Module, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        graph = FrameGraph(network, None, height, width, (Output.IMAGE,))
        return graph(torch.from_numpy(image[None]).to(self._device))[0][0].cpu().numpy()


def _mean_over_groups(by_group: dict[str, list[float]]) -> float:
    return float(np.mean([np.mean(values) for values in by_group.values()])) if by_group else float("nan")


class _Streaks(nn.Module):
    """The streak stage alone."""

    stride = STRIDE

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Estimate:
        """The correction; no depth."""
        light = self.network.find_streaks(image).light
        return Estimate(-light, light.new_zeros(len(light), 1, 0, 0))


class _Fog(nn.Module):
    """All but the streak stage."""

    stride = STRIDE

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Estimate:
        """Correction and depth."""
        correction, depth, _ = self.network.clear_fog(image)
        return Estimate(correction, depth)
