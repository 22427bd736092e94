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
from rain_removal_ros.errors import ImageError, ParameterError, RainRemovalError
from rain_removal_ros.runtime import Output, Restored, create_restorer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `derain video`."""
    parser.add_argument("input", type=Path, metavar="IN", help="a video file of any format, size and length")
    parser.add_argument(
        "output", type=Path, metavar="OUT", help=".mp4, .mov or .mkv, H.264; sound is not kept"
    )
    parser.add_argument(
        "--side-by-side", action="store_true", help="the rainy video to the left of the result"
    )
    parser.add_argument(
        "--depth", action="store_true", help="inverse depth in colours to the right of the result"
    )
    add_weights_arguments(parser)
    add_runtime_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Restore. Exit status 1 where part of the video could not be decoded."""
    try:
        from rain_removal_ros.files.video import VideoSink, VideoSource
    except ModuleNotFoundError as error:
        raise RainRemovalError(
            f"derain video needs PyAV ({error}); install it with: pip install av"
        ) from error
    if arguments.output.exists() and arguments.input.exists() and arguments.output.samefile(arguments.input):
        raise ParameterError(
            f"{arguments.output} is the input and would be overwritten; choose another output"
        )
    outputs = (Output.IMAGE, Output.INVERSE_DEPTH) if arguments.depth else (Output.IMAGE,)
    written = 0
    with VideoSource(arguments.input) as source:
        with VideoSink(arguments.output, source.rate, source.time_base) as sink:
            restorer = create_restorer(settings_from(arguments))
            try:
                with tqdm(
                    source, total=source.frame_count, unit="frame", desc="derain", file=sys.stderr
                ) as bar:
                    for frame in bar:
                        if not written:
                            restorer.prepare(
                                *frame.image.shape[:2], outputs, partial(bar.write, file=sys.stderr)
                            )
                        restored = restorer(frame.image, outputs)
                        sink.write(_panels(frame.image, restored, arguments.side_by_side), frame.time)
                        written += 1
            finally:
                restorer.close()
            if not written:
                raise ImageError(f"{arguments.input} holds no frame that can be decoded")
        if source.has_audio:
            print("The sound of the input was not kept.")
        if source.damaged:
            print(f"{source.damaged} damaged packets of {arguments.input} were skipped.", file=sys.stderr)
    print(f"{written} frames at {float(source.rate):g} frames a second written to {arguments.output}")
    return 1 if source.damaged else 0


def _panels(rainy: np.ndarray, restored: Restored, side_by_side: bool) -> np.ndarray:
    """uint8 (H, n W, 3): what was asked for, from left to right: rainy, restored, inverse depth."""
    panels = [rainy] if side_by_side else []
    panels.append(restored.image)
    if restored.inverse_depth is not None:
        panels.append(colour_inverse_depth(restored.inverse_depth))
    return np.concatenate(panels, axis=1) if len(panels) > 1 else panels[0]
