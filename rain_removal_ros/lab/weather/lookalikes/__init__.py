"""Dry images that look like rain or fog but are not: white skies and walls, wet roads, drops on the
windscreen, low sun, snow, tunnels, night, noise, thin bright things. A derainer should do nothing to any of
them.

Every function of LOOKALIKES takes an image uint8 (H, W, 3) RGB, its inverse depth float32 (H, W) in 1/m
(0 = sky, NaN = unknown), its labels uint8 (H, W) (Cityscapes train ids, 255 unlabelled) and a generator, and
returns another uint8 (H, W, 3) image; the same state of the generator gives the same image. Depth and labels
stay those of the scene: what is drawn in front of it (wires, drops, railings) has neither. Light is added in
linear light, taken as the square of the grey level.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rain_removal_ros.lab.weather.lookalikes import camera, dark, skies, surfaces, thin_things
from rain_removal_ros.lab.weather.lookalikes.scene import Scene

Lookalike = Callable[[np.ndarray, np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _of_arrays(render: Callable[[Scene], np.ndarray]) -> Lookalike:
    def lookalike(
        image: np.ndarray, inverse_depth: np.ndarray, labels: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        return render(Scene(image, inverse_depth, labels, generator))

    lookalike.__doc__ = render.__doc__
    return lookalike


LOOKALIKES: dict[str, Lookalike] = {
    "overexposed": _of_arrays(skies.render_overexposed),
    "white_walls": _of_arrays(surfaces.render_white_walls),
    "wet_road": _of_arrays(surfaces.render_wet_road),
    "windscreen_drops": _of_arrays(camera.render_windscreen_drops),
    "backlight": _of_arrays(skies.render_backlight),
    "snow": _of_arrays(surfaces.render_snow),
    "tunnel": _of_arrays(dark.render_tunnel),
    "night": _of_arrays(dark.render_night),
    "thin_things": _of_arrays(thin_things.render_thin_things),
    "markings": _of_arrays(surfaces.render_markings),
    "overcast": _of_arrays(skies.render_overcast),
    "clouds": _of_arrays(skies.render_clouds),
    "motion_blur": _of_arrays(camera.render_motion_blur),
    "window_reflection": _of_arrays(camera.render_window_reflection),
    "stray_light": _of_arrays(camera.render_stray_light),
    "tone": _of_arrays(camera.render_tone),
    "sensor_noise": _of_arrays(camera.render_sensor_noise),
}

HELD_OUT: dict[str, Lookalike] = {
    "hot_pixels": _of_arrays(camera.render_hot_pixels),
    "scratches": _of_arrays(camera.render_scratches),
    "interlaced": _of_arrays(camera.render_interlaced),
}
"""Kinds that nothing is trained on, so that an evaluation tells what of the others was learned by heart."""

_OVER_ANOTHER = ("windscreen_drops", "thin_things", "wet_road", "motion_blur", "window_reflection")


def random_lookalike(
    image: np.ndarray, inverse_depth: np.ndarray, labels: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """One kind of LOOKALIKES, every kind as likely as another; a fifth of them with a second one over it."""
    names = list(LOOKALIKES)
    name = names[generator.integers(len(names))]
    result = LOOKALIKES[name](image, inverse_depth, labels, generator)
    if generator.random() < 0.2:
        second = _OVER_ANOTHER[generator.integers(len(_OVER_ANOTHER))]
        if second != name:
            result = LOOKALIKES[second](result, inverse_depth, labels, generator)
    return result
