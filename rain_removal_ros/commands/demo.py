"""`derain demo`: renders a rainy drive, plays it through the node, measures what comes out, and shows it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from rain_removal_ros.commands.runtime_options import (
    add_runtime_arguments,
    add_weights_arguments,
    settings_from,
)
from rain_removal_ros.commands.values import positive
from rain_removal_ros.domain import keep_apart
from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.lab.weather import PAPER_LEVELS, Rain, level_parameters
from rain_removal_ros.output import make_folder, write_text
from rain_removal_ros.runtime.sizes import check_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `derain demo`."""
    parser.add_argument(
        "--output", type=Path, default=Path("demo_output"), help="folder for the results (%(default)s)"
    )
    parser.add_argument("--frames", type=int, default=100, help="length of the drive (%(default)s)")
    parser.add_argument("--rate", type=positive, default=10.0, help="camera frames per second (%(default)s)")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument(
        "--seed", type=int, default=10, help="street and rain differ with the seed (%(default)s)"
    )
    parser.add_argument(
        "--level", choices=tuple(PAPER_LEVELS), default="medium", help="strength of the rain (%(default)s)"
    )
    add_weights_arguments(parser)
    add_runtime_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 1 where the pictures that came out are not better than those that went in."""
    keep_apart()  # no vehicle nearby hears the demo
    # rclpy comes before all work: its wheels start the interpreter once more when they are first imported
    from rain_removal_ros.lab.demo import results
    from rain_removal_ros.lab.demo.playback import CAMERA, CAMERA_STATUS, RUNTIME_STATUS, Player
    from rain_removal_ros.lab.scenes import Drive, render_frames
    from rain_removal_ros.ros.process import check_runs, node_parameters, running_node

    check_size(arguments.height, arguments.width)  # before the drive is rendered for it
    output: Path = make_folder(arguments.output)
    drive = Drive(arguments.width, arguments.height, arguments.frames, arguments.rate, arguments.seed)
    with tqdm(total=len(drive), desc="render the drive", unit="frame") as bar:
        frames = list(render_frames(drive, on_progress=lambda *_: bar.update()))
    rain = Rain(
        level_parameters(arguments.level, arguments.seed), arguments.height, arguments.width, arguments.seed
    )
    rainy = [rain.render(frame.image, frame.inverse_depth, frame.stamp) for frame in frames]

    log = output / "node.log"
    parameters = {
        "cameras": f"[{CAMERA}]",
        "image_sizes": f"{arguments.width}x{arguments.height}",
        **node_parameters(settings_from(arguments)),
    }
    player = Player()
    try:
        with running_node(parameters, log) as process:
            print("start the node (the network is compiled the first time) ...", flush=True)
            player.wait_until_ready(process, log)
            with tqdm(total=len(rainy), desc=f"drive at {arguments.rate:g} Hz", unit="frame") as bar:

                def progress(_: int) -> None:
                    check_runs(process, log)
                    bar.update()

                player.play(rainy, drive.camera, arguments.rate, progress)
    finally:
        player.close()
    recording = player.recording
    if not recording.derained.keys() & recording.inverse_depth.keys():
        raise RainRemovalError(
            f"of {len(rainy)} frames {len(recording.derained)} came back derained and "
            f"{len(recording.inverse_depth)} with inverse depth, none with both; the node's log is {log}"
        )
    summary = results.summarise(
        frames, rainy, recording, recording.diagnostics[CAMERA_STATUS], recording.diagnostics[RUNTIME_STATUS]
    )
    write_text(output / results.FIGURES, json.dumps(asdict(summary), indent=2) + "\n")
    results.draw_results(frames, rainy, recording, output, arguments.rate)
    print(results.table(summary))
    print(
        f"side-by-side video: {output / results.VIDEO}\n"
        f"contact sheet:      {output / results.SHEET}\n"
        f"one frame:          {output / results.FRAME}\n"
        f"figures:            {output / results.FIGURES}"
    )
    if not summary.improved:
        print("the node did not improve the images")
        return 1
    return 0
