"""What the file commands show beside a result: the rainy image to its left, inverse depth to its right."""

from __future__ import annotations

import argparse

import numpy as np

from rain_removal_ros.colours import colour_inverse_depth
from rain_removal_ros.commands.values import positive
from rain_removal_ros.encodings import Picture, write_image
from rain_removal_ros.errors import ParameterError
from rain_removal_ros.runtime import Output, Restored


def add_panel_arguments(parser: argparse.ArgumentParser, kind: str) -> None:
    """--side-by-side, --depth and --focal-px; `kind` is what the command restores: `image` or `video`."""
    parser.add_argument(
        "--side-by-side", action="store_true", help=f"show the rainy {kind} to the left of the result"
    )
    parser.add_argument(
        "--depth", action="store_true", help="show inverse depth in colours to the right of the result"
    )
    parser.add_argument(
        "--focal-px",
        type=positive,
        metavar="PIXELS",
        help="focal length of the camera, for depth in 1/m (0.8 times the width)",
    )


def outputs_of(arguments: argparse.Namespace) -> tuple[Output, ...]:
    """What the network has to give for the panels asked for. Raises ParameterError for --focal-px without
    --depth.
    """
    if arguments.focal_px and not arguments.depth:
        raise ParameterError("--focal-px is about depth; give --depth as well, or leave it out")
    return (Output.IMAGE, Output.INVERSE_DEPTH) if arguments.depth else (Output.IMAGE,)


def panels(picture: Picture, restored: Restored, side_by_side: bool) -> np.ndarray:
    """uint8 or uint16 (H, n W, 3): what was asked for, from left to right: rainy, restored, inverse depth.
    The picture is one of rgb8 or rgb16.
    """
    assert restored.image is not None  # it was asked for
    result = write_image(picture, restored.image)
    shown = [picture.rgb if picture.source is None else picture.source] if side_by_side else []
    shown.append(result)
    if restored.inverse_depth is not None:
        depth = colour_inverse_depth(restored.inverse_depth)
        shown.append(depth if result.dtype == np.uint8 else depth.astype(np.uint16) * 257)
    return np.concatenate(shown, axis=1) if len(shown) > 1 else shown[0]
