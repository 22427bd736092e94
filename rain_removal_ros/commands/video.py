"""`derain video IN OUT`: restores a video frame by frame, of any length, and keeps its frame rate and number
of frames.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rain_removal_ros.colours import colour_inverse_depth
from rain_removal_ros.commands.runtime_options import (
    add_runtime_arguments,
    add_weights_arguments,
    settings_from,
)
from rain_removal_ros.commands.values import positive
from rain_removal_ros.encodings import Picture, interleaved_picture, write_image
from rain_removal_ros.errors import ImageError, ParameterError
from rain_removal_ros.runtime import Output, Restored, create_restorer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `derain video`."""
    parser.add_argument(
        "input",
        type=Path,
        metavar="IN",
        help="a video file of any format and length, from 64x64 to 3840x2160 or upright",
    )
    parser.add_argument(
        "output", type=Path, metavar="OUT", help=".mp4, .mov or .mkv: H.264 with the sound of the input"
    )
    parser.add_argument(
        "--side-by-side", action="store_true", help="the rainy video to the left of the result"
    )
    parser.add_argument(
        "--depth", action="store_true", help="inverse depth in colours to the right of the result"
    )
    parser.add_argument(
        "--focal-px",
        type=positive,
        metavar="PIXELS",
        help="the camera's focal length, for depth in 1/m (0.8 times the width)",
    )
    add_weights_arguments(parser)
    add_runtime_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Restore. Exit status 1 where part of the video is missing or could not be decoded."""
    from rain_removal_ros.files.video import TimedFrame, VideoSink, VideoSource, upright_look

    if arguments.output.exists() and arguments.input.exists() and arguments.output.samefile(arguments.input):
        raise ParameterError(
            f"{arguments.output} is the input and would be overwritten; choose another output"
        )
    outputs = (Output.IMAGE, Output.INVERSE_DEPTH) if arguments.depth else (Output.IMAGE,)
    written = 0
    with VideoSource(arguments.input) as source:
        sink = VideoSink(
            arguments.output,
            source.rate,
            source.time_base,
            upright_look(source),
            source.sound,
            source.metadata,
            source.chapters,
        )
        with sink:
            restorer = create_restorer(settings_from(arguments))
            try:
                with tqdm(total=source.frame_count, unit="frame", desc="derain", file=sys.stderr) as bar:
                    for item in source:
                        if not isinstance(item, TimedFrame):
                            sink.write_sound(item)
                            continue
                        picture = _picture(item.image)
                        if not written:
                            tell = partial(bar.write, file=sys.stderr)
                            height, width = picture.rgb.shape[:2]
                            restorer.prepare(height, width, outputs, tell)
                        restored = restorer(picture.rgb, outputs, arguments.focal_px)
                        sink.write(_panels(picture, restored, arguments.side_by_side), item.time)
                        written += 1
                        bar.update()
            finally:
                restorer.close()
            if not written:
                raise ImageError(f"{arguments.input} holds no frame that can be decoded")
        for said in (*sink.says, *(f"{what} of the input are not kept" for what in source.left_behind)):
            print(f"derain video: {said}", file=sys.stderr)
        troubles = {
            f"{source.damaged} damaged packets of {arguments.input} were skipped": source.damaged,
            f"{sink.damaged_sound} damaged packets of its sound were skipped": sink.damaged_sound,
            f"{arguments.input} is cut off: it ends {source.cut_off} frames early": source.cut_off,
        }
        told = [text for text, count in troubles.items() if count]
        for text in told:
            print(f"derain video: {text}", file=sys.stderr)
    print(f"{written} frames at {float(source.rate):g} frames a second written to {arguments.output}")
    return 1 if told else 0


def _picture(image: np.ndarray) -> Picture:
    """A frame of 8 or 16 bits as the node would see it."""
    return interleaved_picture(image, f"rgb{8 * image.dtype.itemsize}")


def _panels(picture: Picture, restored: Restored, side_by_side: bool) -> np.ndarray:
    """uint8 or uint16 (H, n W, 3): what was asked for, from left to right: rainy, restored, inverse depth."""
    assert restored.image is not None  # it was asked for
    result = write_image(picture, restored.image)
    panels = [picture.rgb if picture.source is None else picture.source] if side_by_side else []
    panels.append(result)
    if restored.inverse_depth is not None:
        depth = colour_inverse_depth(restored.inverse_depth)
        panels.append(depth if result.dtype == np.uint8 else depth.astype(np.uint16) * 257)
    return np.concatenate(panels, axis=1) if len(panels) > 1 else panels[0]
