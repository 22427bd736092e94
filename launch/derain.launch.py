"""Launches the derain node with the DDS profile for large images. Its arguments are the node's parameters.

ros2 launch rain_removal_ros derain.launch.py cameras:=front,rear segmentation:=true
"""

import os
from pathlib import Path

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from rain_removal_ros.errors import ParameterError
from rain_removal_ros.ros.parameters import PARAMETERS, launch_parameters, launch_remappings, launch_switch
from rain_removal_ros.share import dds_profile_environment, join_active_environment, node_program

RESPAWN_DELAY_S = 1.0

OTHER_ARGUMENTS = (
    ("name", "derain", "Name of the node."),
    ("namespace", "", "Namespace of the node and of its topics."),
    ("params_file", "", "A parameter file such as config/derain.yaml; launch arguments override it."),
    ("remap", "", "Remappings, separated by spaces: camera/image_raw:=/front/image_raw ..."),
    ("use_sim_time", "", "true: take the time from /clock, which a bag player publishes."),
    (
        "respawn",
        "false",
        "true: restart the node when it ends, by itself or because its runtime is broken.",
    ),
    ("required", "false", "true: end the whole launch with the node."),
    ("log_level", "info", "Log level of the node: debug, info, warn, error or fatal."),
)


def generate_launch_description() -> LaunchDescription:
    """One argument per parameter; an empty one leaves it to `params_file` or to the node's default."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in OTHER_ARGUMENTS
    ]
    arguments += [
        DeclareLaunchArgument(
            parameter.name,
            default_value="",
            description=f"{parameter.description} {parameter.allowed} (default {parameter.default})",
        )
        for parameter in PARAMETERS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list:
    def text(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    profile = dds_profile_environment(os.environ)
    if profile:
        notice = f"DDS profile for large images: {next(iter(profile.values()))}"
    else:
        notice = "DDS profile: the user's own"
    respawn, required = (launch_switch(name, text(name)) for name in ("respawn", "required"))
    if respawn and (required or launch_switch("build_only", text("build_only") or "false")):
        other = "required" if required else "build_only"
        raise ParameterError(f"respawn:=true and {other}:=true contradict each other; give one of them")
    parameters: list = []
    if text("params_file"):
        file = Path(text("params_file")).expanduser()
        if not file.is_file():  # launch would warn, and start a node with unintended parameters
            raise ParameterError(f"params_file {file} does not exist")
        parameters.append(str(file))
    if respawn:
        parameters.append({"exit_when_broken": True})
    parameters.append(launch_parameters({parameter.name: text(parameter.name) for parameter in PARAMETERS}))
    if text("use_sim_time"):
        parameters.append({"use_sim_time": launch_switch("use_sim_time", text("use_sim_time"))})
    program = node_program(join_active_environment())
    return [
        LogInfo(msg=notice),
        Node(
            executable=program[0],
            arguments=program[1:],
            name=text("name"),
            namespace=text("namespace"),
            parameters=parameters,
            remappings=launch_remappings(text("remap")),
            ros_arguments=["--log-level", text("log_level")],
            output="screen",
            emulate_tty=True,
            additional_env=profile,
            respawn=respawn,
            respawn_delay=RESPAWN_DELAY_S,
            on_exit=Shutdown() if required else None,
        ),
    ]
