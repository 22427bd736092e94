"""Plays a bag through the node: ros2 launch rain_removal_ros replay.launch.py bag:=PATH rate:=0.5 loop:=true

The node is started by derain.launch.py, with the cameras, remappings, image sizes and simulated time that the
bag needs. Playing begins when it is active and compiled. The node's other parameters, `name`, `params_file`
and `log_level` are passed on to derain.launch.py. PushRosNamespace around it moves the node and its outputs;
the bag is played under its own names.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    Shutdown,
)
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.extras import missing
from rain_removal_ros.ros.launching import (
    LOG_LEVELS,
    SWITCH_TEXTS,
    argument_choices,
    argument_description,
    check_ended_well,
    full_name,
)
from rain_removal_ros.ros.parameter_files import parameter_from_file
from rain_removal_ros.ros.parameters import BY_NAME, PARAMETERS, launch_switch
from rain_removal_ros.share import dds_profile_environment, join_active_environment, share_file

if TYPE_CHECKING:
    from rain_removal_ros.replay.topics import PlayedCamera

PYTHON = join_active_environment()
"""Runs the player. Modules that read bags are imported in functions: the environment alone may have them."""

VIEWERS = {
    "none": "nothing",
    "rviz": "RViz with a layout for the bag's first camera",
    "foxglove": "foxglove_bridge, and a layout to import",
    "web": "a page in the browser, http://localhost:8080",
}
ARGUMENTS = (
    ("bag", None, "The bag: its folder, or its .mcap or .db3 file."),
    (
        "cameras",
        "",
        "Cameras to play, as front,rear: topics, or their names without the last part; empty: all.",
    ),
    ("rate", "1.0", "Multiple of the bag's own pace (double; 0.01 to 100)."),
    ("loop", "false", "Start again at the end."),
    ("every", "false", "Derain every image: the bag waits for the node if that is slower."),
    ("start", "0.0", "Start this many seconds in (double)."),
    ("duration", "", "Play this many seconds (double); empty: to the end."),
    ("record", "", "Record the node's outputs into this new bag."),
    ("viewer", "none", f"Viewer: {', '.join(f'{name} ({what})' for name, what in VIEWERS.items())}."),
)
CHOICES = {"loop": [*SWITCH_TEXTS], "every": [*SWITCH_TEXTS], "viewer": [*VIEWERS]}

OTHERS = {
    "name": ("derain", None),
    "params_file": ("", None),
    "log_level": ("info", [*LOG_LEVELS]),
}
"""Passed on to derain.launch.py, with the parameters that the bag does not decide: default and choices."""

DECIDED = {
    "cameras": None,  # by the bag, as node_parameters says
    "image_transport": None,
    "image_sizes": None,
    "autostart": "true",
    "build_only": "false",
}
HANDED_ON = (*OTHERS, *(parameter.name for parameter in PARAMETERS if parameter.name not in DECIDED))


def generate_launch_description() -> LaunchDescription:
    """The replay's own arguments, and derain.launch.py's as far as the bag leaves them open."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=CHOICES.get(name))
        for name, default, text in ARGUMENTS
    ]
    arguments += [
        DeclareLaunchArgument(
            name, default_value=default, description="See derain.launch.py.", choices=choices
        )
        for name, (default, choices) in OTHERS.items()
    ]
    arguments += [
        DeclareLaunchArgument(
            name,
            default_value="",
            description=argument_description(BY_NAME[name]),
            choices=argument_choices(BY_NAME[name]),
        )
        for name in HANDED_ON
        if name not in OTHERS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list:
    try:
        return _replay(context)
    except ModuleNotFoundError as error:
        needed = missing(error)
        if needed is None:
            raise
        raise RainRemovalError(f"replay.launch.py needs {needed}") from error


def _replay(context: LaunchContext) -> list:
    from rain_removal_ros.bags.cameras import find_cameras
    from rain_removal_ros.bags.storage import Bag
    from rain_removal_ros.replay.topics import namespace_of, node_parameters, played_cameras

    def text(name: str) -> str:
        return LaunchConfiguration(name).perform(context).strip()

    path, viewer, said = Path(text("bag")).expanduser(), text("viewer"), []
    node = full_name(context.launch_configurations.get("ros_namespace", ""), "", text("name"))
    names = [name.strip(" '\"") for name in text("cameras").strip("[]").split(",")]
    with Bag(path) as bag:
        found = find_cameras(bag, [name for name in names if name])
    cameras = played_cameras(found, said.append, namespace_of(node))
    remap = " ".join(f"{source}:={target}" for camera in cameras for source, target in camera.remappings)
    player = [PYTHON, "-m", "rain_removal_ros.commands.main", "replay", str(path), "--no-node"]
    player += ["--node-name", node, "--cameras", *(camera.camera.topic.name for camera in cameras)]
    for name in ("rate", "start", "duration"):
        player += [f"--{name}", text(name)] if text(name) else []
    player += ["--record", str(Path(text("record")).expanduser())] if text("record") else []
    every = launch_switch("every", text("every"))
    if every and text("queue_length"):
        said.append("queue_length is not used with every:=true, which has a queue of its own")
    player += ["--every"] if every else []
    player += ["--loop"] if launch_switch("loop", text("loop")) else []
    player += ["--segmentation"] if _segments(text, node) else []
    player += ["--serve"] if viewer == "web" else []
    return [
        *(LogInfo(msg=each) for each in said),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(share_file("launch/derain.launch.py"))),
            launch_arguments={
                **{name: text(name) for name in HANDED_ON},
                **node_parameters(cameras, every),
                "namespace": "",  # a launch that includes this one may have set these for others
                "respawn": "false",
                **{name: value for name, value in DECIDED.items() if value is not None},
                "required": "true",
                "remap": remap,
            }.items(),
        ),
        ExecuteProcess(
            cmd=player,
            output="screen",
            emulate_tty=True,
            additional_env=dds_profile_environment(os.environ),
            on_exit=_ended,
        ),
        *_viewer(viewer, cameras[0], text("name")),
    ]


def _segments(text: Callable[[str], str], node: str) -> bool:
    """Whether the node makes masks. text: of an argument by name. node: its full name."""
    if text("segmentation"):
        return launch_switch("segmentation", text("segmentation"))
    file = Path(text("params_file")).expanduser()
    if not file.is_file():  # none is given, or derain.launch.py says that it is missing
        return False
    return parameter_from_file(file, node, "segmentation") is True


def _ended(event: ProcessExited, context: LaunchContext) -> list:
    check_ended_well("the replay", event.returncode, interrupted=context.is_shutdown)
    return [Shutdown(reason="the replay has ended")]


def _viewer(viewer: str, camera: "PlayedCamera", node_name: str) -> list:
    from rain_removal_ros.replay.layouts import write_layout

    if viewer not in ("rviz", "foxglove"):
        return []
    layout = write_layout(viewer, camera, Path(tempfile.mkdtemp(prefix="derain_replay_")), node_name)
    time = [{"use_sim_time": True}]
    if viewer == "rviz":
        return [Node(package="rviz2", executable="rviz2", arguments=["-d", str(layout)], parameters=time)]
    return [
        LogInfo(msg=f"open ws://localhost:8765 in Foxglove and import the layout {layout}"),
        Node(package="foxglove_bridge", executable="foxglove_bridge", parameters=time, output="screen"),
    ]
