"""Launches the derain node with the DDS profile for large images. Its arguments are the node's parameters.

ros2 launch rain_removal_ros derain.launch.py cameras:=front,rear segmentation:=true
"""

import os
from functools import partial
from pathlib import Path

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from rain_removal_ros.errors import ParameterError
from rain_removal_ros.ros.launching import (
    LOG_LEVELS,
    SWITCH_TEXTS,
    argument_choices,
    argument_description,
    check_ended_well,
    full_name,
)
from rain_removal_ros.ros.parameter_files import (
    overriding_file,
    parameter_from_file,
    unmatched_file_notice,
)
from rain_removal_ros.ros.parameters import PARAMETERS, launch_parameters, launch_remappings, launch_switch
from rain_removal_ros.share import (
    dds_profile_environment,
    dds_profile_notice,
    join_active_environment,
    node_program,
)

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
    ("required", "false", "true: end the whole launch with the node, with exit status 1 where it failed."),
    ("log_level", "info", "Log level of the node."),
)
CHOICES = {
    "use_sim_time": ["", *SWITCH_TEXTS],
    "respawn": [*SWITCH_TEXTS],
    "required": [*SWITCH_TEXTS],
    "log_level": [*LOG_LEVELS],
}


def generate_launch_description() -> LaunchDescription:
    """One argument per parameter; an empty one leaves it to `params_file` or to the node's default."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=CHOICES.get(name))
        for name, default, description in OTHER_ARGUMENTS
    ]
    arguments += [
        DeclareLaunchArgument(
            parameter.name,
            default_value="",
            description=argument_description(parameter),
            choices=argument_choices(parameter),
        )
        for parameter in PARAMETERS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list:
    def text(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    respawn, required = (launch_switch(name, text(name)) for name in ("respawn", "required"))
    parameters, said = [], [dds_profile_notice(os.environ)]
    build_only, where = launch_switch("build_only", text("build_only") or "false"), "build_only:=true"
    if text("params_file"):
        file = Path(text("params_file")).expanduser()
        if not file.is_file():  # launch would warn, and start a node with unintended parameters
            raise ParameterError(f"params_file {file} does not exist")
        node = full_name(
            context.launch_configurations.get("ros_namespace", ""), text("namespace"), text("name")
        )
        said += unmatched_file_notice(file, node)
        if not text("build_only") and parameter_from_file(file, node, "build_only") is True:
            build_only, where = True, f"build_only: true of {file}"
        parameters.append(str(file))
    if respawn and (required or build_only):
        other = "required:=true" if required else where
        raise ParameterError(f"respawn:=true and {other} contradict each other; give one of them")
    given = {"exit_when_broken": True} if respawn else {}
    given |= launch_parameters({parameter.name: text(parameter.name) for parameter in PARAMETERS})
    if text("use_sim_time"):
        given["use_sim_time"] = launch_switch("use_sim_time", text("use_sim_time"))
    if given:
        parameters.append(str(overriding_file(given)) if parameters else given)
    program = node_program(join_active_environment())
    ended = partial(_ended, required, build_only)
    return [
        *(LogInfo(msg=each) for each in said),
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
            additional_env=dds_profile_environment(os.environ),
            respawn=respawn,
            respawn_delay=RESPAWN_DELAY_S,
            on_exit=ended if required or build_only else None,
        ),
    ]


def _ended(required: bool, build_only: bool, event: ProcessExited, context: LaunchContext) -> list:
    check_ended_well("the node", event.returncode, interrupted=context.is_shutdown and not build_only)
    return [Shutdown(reason="the node has ended")] if required else []
