"""`derain replay BAG`: plays a bag through the live node; needs nothing but pip."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from rain_removal_ros.commands.runtime_options import (
    add_runtime_arguments,
    add_weights_arguments,
    settings_from,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `derain replay`."""
    parser.add_argument("bag", type=Path, metavar="BAG", help="a bag: its folder, or its .mcap or .db3 file")
    parser.add_argument(
        "--cameras", nargs="+", default=[], metavar="NAME",
        help="image topics, or their names without the last part (all camera topics)",
    )  # fmt: skip
    parser.add_argument(
        "--rate", type=float, default=1.0, metavar="X", help="multiple of the bag's own pace (%(default)s)"
    )
    parser.add_argument("--loop", action="store_true", help="start again at the end, until interrupted")
    parser.add_argument(
        "--every", action="store_true",
        help="derain every image: the bag waits for the node if that is slower",
    )  # fmt: skip
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="start this many seconds in")
    parser.add_argument("--duration", type=float, metavar="S", help="play this many seconds (to the end)")
    parser.add_argument("--record", type=Path, metavar="OUT", help="record the node's outputs into a new bag")
    parser.add_argument(
        "--serve", nargs="?", type=int, const=8080, metavar="PORT",
        help="show a page in the browser: before, after, depth, latency, diagnostics (port 8080)",
    )  # fmt: skip
    parser.add_argument(
        "--host",
        default="localhost",
        help="address of that page; 0.0.0.0: everybody may see it (%(default)s)",
    )
    parser.add_argument("--segmentation", action="store_true", help="also have the node make masks")
    parser.add_argument(
        "--no-node",
        action="store_true",
        help="use a node that already runs (with use_sim_time:=true, and for --every queue_length:=16)",
    )
    parser.add_argument(
        "--node-name", default="derain", help="name of that node, as derain or /car/derain (%(default)s)"
    )
    add_weights_arguments(parser)
    add_runtime_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Play to the end or Ctrl-C; both are exit status 0."""
    if not arguments.no_node:  # nobody else is to hear it, unless the user says so
        os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    from rain_removal_ros.bags.cameras import find_cameras
    from rain_removal_ros.bags.storage import Bag
    from rain_removal_ros.bags.viewer import Viewer
    from rain_removal_ros.replay import topics
    from rain_removal_ros.replay.player import NodeEnded, Player, ReplayOptions
    from rain_removal_ros.replay.recording import recording
    from rain_removal_ros.replay.showing import showing
    from rain_removal_ros.ros.client import unknown
    from rain_removal_ros.ros.process import fate_of, node_parameters, running_node

    options = ReplayOptions(
        arguments.rate, arguments.loop, arguments.start, arguments.duration, arguments.every
    )
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    lost: NodeEnded | None = None
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=0.0, desc="replay", file=sys.stderr, bar_format=BAR))
        say = partial(bar.write, file=sys.stderr)
        bag = stack.enter_context(Bag(arguments.bag))
        found = find_cameras(bag, arguments.cameras)
        namespace = topics.namespace_of(arguments.node_name) if arguments.no_node else ""
        cameras = topics.played_cameras(found, say, namespace)
        for text in (*bag.notices, *bag.damage):
            say(text)
        say(f"cameras: {', '.join(f'{each.name} from {each.camera}' for each in cameras)}")
        player = stack.enter_context(Player(bag, cameras, options, say, arguments.node_name))
        process: subprocess.Popen[bytes] | None = None
        try:
            if not arguments.no_node:
                parameters = {
                    **topics.node_parameters(cameras, arguments.every),
                    **node_parameters(settings_from(arguments)),
                    "segmentation": str(arguments.segmentation).lower(),
                }
                remappings = [rule for camera in cameras for rule in camera.remappings]
                process = stack.enter_context(running_node(parameters, None, remappings))
            if arguments.serve is not None:
                names = [camera.name for camera in cameras]
                viewer = stack.enter_context(Viewer(names, arguments.serve, arguments.host))
                stack.enter_context(showing(player, viewer, arguments.segmentation))
                say(f"look at {viewer.url}")
            if arguments.record is not None:
                outputs = recording(player, cameras, arguments.record, arguments.segmentation)
                stack.enter_context(outputs)
            say("waiting for the node to be compiled for the bag's sizes")
            fate = unknown if process is None else partial(fate_of, process)
            player.wait_until_ready(fate)
            player.play(partial(_show, bar), fate)
            player.wait_for_outputs()
        except KeyboardInterrupt:
            say("interrupted")
        except NodeEnded as error:  # what was recorded until then is kept
            lost = error
    if lost is not None:
        raise lost
    bar.close()
    for camera in cameras:
        sent = player.played.sent.get(topics.absolute(camera.camera.topic.name), 0)
        print(
            f"{camera.name}: {sent} images played, {player.played.derained[camera.name]} derained came back"
        )
    if not arguments.every:
        print("The node takes the newest image; --every derains every one, and so does derain bag.")
    return 0


SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _interrupt(*_: object) -> NoReturn:
    """Raise KeyboardInterrupt once: Ctrl-C reaches the replay from the terminal and from `ros2 launch`, and a
    second one would cut off what ends the recording and the node.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


BAR = "{desc}: {n:.1f} of {total:.1f} s |{bar}| {postfix}"


def _show(bar: tqdm, seconds: float, total: float) -> None:
    bar.total = max(total, seconds)
    bar.update(seconds - bar.n)
