"""`derain video IN OUT`: restores a video frame by frame, of any length, and keeps its frame rate and number
of frames.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rain_removal_ros.commands.panels import add_panel_arguments, outputs_of, panels
from rain_removal_ros.commands.runtime_options import (
    add_runtime_arguments,
    add_weights_arguments,
    settings_from,
)
from rain_removal_ros.encodings import Picture, interleaved_picture
from rain_removal_ros.errors import ImageError, ParameterError
from rain_removal_ros.runtime import create_restorer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `derain video`."""
    parser.add_argument(
        "input",
        type=Path,
        metavar="IN",
        help="a video file of any format and length, from 64x64 to 4096x3072 or 3072x4096",
    )
    parser.add_argument(
        "output", type=Path, metavar="OUT", help=".mp4, .mov or .mkv file: H.264 with the sound of the input"
    )
    add_panel_arguments(parser, "video")
    add_weights_arguments(parser)
    add_runtime_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Restore. Exit status 1 where part of the video is missing or could not be decoded."""
    from rain_removal_ros.files.video import TimedFrame, VideoSink, VideoSource, upright_look

    if arguments.output.exists() and arguments.input.exists() and arguments.output.samefile(arguments.input):
        raise ParameterError(
            f"{arguments.output} is the input and would be overwritten; choose another output"
        )
    outputs = outputs_of(arguments)
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
        with (
            sink,
            closing(create_restorer(settings_from(arguments))) as restorer,
            tqdm(total=source.frame_count, unit="frame", desc="derain", file=sys.stderr) as bar,
        ):
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
                sink.write(panels(picture, restored, arguments.side_by_side), item.time)
                written += 1
                bar.update()
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
