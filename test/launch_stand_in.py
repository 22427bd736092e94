"""Stands in for launch and launch_ros: the calls that our launch files make, with the same signatures, and
what they would start. The real ones come with a ROS installation alone; test/ros2/ runs those.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import yaml


@dataclass(frozen=True)
class LaunchContext:
    """The arguments of a launch, declared defaults included."""

    launch_configurations: dict[str, str]
    is_shutdown: bool = False


@dataclass(frozen=True)
class ProcessExited:
    """What `on_exit` is told; a negative return code is that of a signal."""

    returncode: int


class DeclareLaunchArgument:
    def __init__(
        self,
        name: str,
        *,
        default_value: str | None = None,
        description: str | None = None,
        choices: list[str] | None = None,
    ):
        self.name, self.default_value, self.description, self.choices = (
            name,
            default_value,
            description,
            choices,
        )


class LaunchConfiguration:
    def __init__(self, variable_name: str, *, default: str | None = None):
        self._name = variable_name

    def perform(self, context: LaunchContext) -> str:
        return context.launch_configurations[self._name]


class OpaqueFunction:
    def __init__(
        self,
        *,
        function: Callable[..., list | None],
        args: Iterable | None = None,
        kwargs: dict | None = None,
    ):
        self._call = function, tuple(args or ()), dict(kwargs or {})

    def execute(self, context: LaunchContext) -> list | None:
        function, args, kwargs = self._call
        return function(context, *args, **kwargs)


class LogInfo:
    def __init__(self, *, msg: str):
        self.msg = msg


class Shutdown:
    def __init__(self, *, reason: str = "reason not given"):
        self.reason = reason


class Node:
    """launch_ros' node; what it does not know goes to ExecuteProcess, of whose options we use these."""

    def __init__(
        self,
        *,
        executable: str,
        package: str | None = None,
        name: str | None = None,
        namespace: str | None = None,
        exec_name: str | None = None,
        parameters: list[str | dict] | None = None,
        remappings: list[tuple[str, str]] | None = None,
        ros_arguments: Iterable[str] | None = None,
        arguments: Iterable[str] | None = None,
        output: str = "log",
        emulate_tty: bool = False,
        on_exit: Any = None,
        additional_env: dict[str, str] | None = None,
        respawn: bool = False,
        respawn_delay: float | None = None,
    ):
        self.package, self.executable, self.name, self.namespace = package, executable, name, namespace
        self.parameters, self.remappings = list(parameters or ()), list(remappings or ())
        self.arguments, self.ros_arguments = list(arguments or ()), list(ros_arguments or ())
        self.output, self.emulate_tty, self.on_exit = output, emulate_tty, on_exit
        self.additional_env = dict(additional_env or {})
        self.respawn, self.respawn_delay = respawn, respawn_delay

    def values(self) -> dict[str, Any]:
        """The parameters that the launch file itself gives, after `params_file`."""
        last = self.parameters[-1] if self.parameters else {}
        if isinstance(last, dict):
            return last
        (block,) = yaml.safe_load(Path(last).read_text()).values()
        return block["ros__parameters"]

    def command(self, folder: Path) -> list[str]:
        """The command line that launch_ros starts; parameter files that it makes go to `folder`."""
        assert self.package is None, "an executable of a package is looked up in the ament index"
        command = [self.executable, *self.arguments, "--ros-args", *self.ros_arguments]
        if self.name:
            command += ["-r", f"__node:={self.name}"]
        if self.namespace:
            command += ["-r", f"__ns:=/{self.namespace.strip('/')}"]
        for number, parameters in enumerate(self.parameters):
            path = str(parameters)
            if isinstance(parameters, dict):
                path = str(folder / f"launch_params_{number}.yaml")
                full = f"/{self.namespace.strip('/')}/{self.name}" if self.namespace else f"/{self.name}"
                Path(path).write_text(yaml.safe_dump({full: {"ros__parameters": parameters}}))
            command += ["--params-file", path]
        for source, target in self.remappings:
            command += ["-r", f"{source}:={target}"]
        return command


class ExecuteProcess:
    def __init__(
        self,
        *,
        cmd: Iterable[str],
        output: str = "log",
        emulate_tty: bool = False,
        on_exit: Any = None,
        additional_env: dict[str, str] | None = None,
    ):
        self.additional_env = dict(additional_env or {})
        self.command, self.output, self.emulate_tty, self.on_exit = list(cmd), output, emulate_tty, on_exit


class PythonLaunchDescriptionSource:
    def __init__(self, launch_file_path: str):
        self.location = launch_file_path


class IncludeLaunchDescription:
    """Of another file, with arguments of its own."""

    def __init__(
        self,
        source: PythonLaunchDescriptionSource,
        *,
        launch_arguments: Iterable[tuple[str, str]] | None = None,
    ):
        self.path, self.arguments = Path(source.location), dict(launch_arguments or ())


class LaunchDescription:
    def __init__(self, initial_entities: Iterable | None = None):
        self.entities = list(initial_entities or ())


@dataclass
class Launched:
    """What a launch file did."""

    declared: dict[str, DeclareLaunchArgument] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    processes: list[ExecuteProcess] = field(default_factory=list)
    included: dict[str, Launched] = field(default_factory=dict)  # by file name


def modules() -> dict[str, types.ModuleType]:
    """By name, as sys.modules holds them."""
    contents = {
        "launch": (LaunchContext, LaunchDescription),
        "launch.events.process": (ProcessExited,),
        "launch.actions": (
            DeclareLaunchArgument,
            ExecuteProcess,
            IncludeLaunchDescription,
            LogInfo,
            OpaqueFunction,
            Shutdown,
        ),
        "launch.launch_description_sources": (PythonLaunchDescriptionSource,),
        "launch.substitutions": (LaunchConfiguration,),
        "launch_ros": (),
        "launch_ros.actions": (Node,),
    }
    made = {}
    for name, classes in contents.items():
        made[name] = types.ModuleType(name)
        for each in classes:
            setattr(made[name], each.__name__, each)
    return made


def launch(path: Path, **arguments: str) -> Launched:
    """Visit a launch file's description with these arguments, in order, as launch does."""
    with mock.patch.dict(sys.modules, modules()):
        specification = importlib.util.spec_from_file_location("launch_file", path)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        result, context = Launched(), LaunchContext(dict(arguments))
        waiting = list(module.generate_launch_description().entities)
        while waiting:
            entity = waiting.pop(0)
            if isinstance(entity, DeclareLaunchArgument):
                result.declared[entity.name] = entity
                given = context.launch_configurations.get(entity.name)
                if given is None:
                    assert entity.default_value is not None, f"argument {entity.name} is required"
                    context.launch_configurations[entity.name] = entity.default_value
                _check_choice(entity, context.launch_configurations[entity.name])
            elif isinstance(entity, OpaqueFunction):
                waiting[:0] = entity.execute(context) or []
            elif isinstance(entity, LogInfo):
                result.said.append(entity.msg)
            elif isinstance(entity, Node):
                result.nodes.append(entity)
            elif isinstance(entity, ExecuteProcess):
                result.processes.append(entity)
            elif isinstance(entity, IncludeLaunchDescription):
                pushed = context.launch_configurations.get("ros_namespace")  # what is included has it too
                above = {} if pushed is None else {"ros_namespace": pushed}
                included = launch(entity.path, **above, **entity.arguments)
                assert set(entity.arguments) <= set(included.declared), "an argument is not declared"
                result.included[entity.path.name] = included
            else:
                raise TypeError(f"{entity!r} is no entity that a launch file of ours uses")
    return result


def _check_choice(argument: DeclareLaunchArgument, value: str) -> None:
    """Raise where launch would, in its words."""
    if argument.choices is None:
        return
    assert argument.default_value is None or argument.default_value in argument.choices
    if value not in argument.choices:
        raise RuntimeError(
            f'Argument "{argument.name}" provided value "{value}" is not valid. '
            f"Valid options are: {argument.choices}"
        )


def ended(process: Node | ExecuteProcess, status: int, in_shutdown: bool = False) -> list[Any]:
    """What a process's `on_exit` gives launch to do; what it raises ends launch with exit status 1."""
    if process.on_exit is None:
        return []
    return process.on_exit(ProcessExited(status), LaunchContext({}, in_shutdown)) or []


def environment_of(process: Node | ExecuteProcess) -> dict[str, str]:
    """The environment that a process is started with."""
    return {**os.environ, **process.additional_env}
