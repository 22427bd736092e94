"""Publishes the node's diagnostics: gathers from the pipeline, the topics and the graph what they judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from rain_removal_ros.pipeline import OnFailure
from rain_removal_ros.ros.camera_topics import CameraTopics
from rain_removal_ros.ros.configured import Configured
from rain_removal_ros.ros.diagnostics import (
    CameraState,
    Limits,
    RuntimeState,
    camera_status,
    runtime_status,
)
from rain_removal_ros.ros.status import BUILDING, RUNTIME


class Reporter:
    """Has the publisher of /diagnostics. unknown_parameters: what to say of those that the node was given and
    does not have.
    """

    def __init__(self, node: Node, unknown_parameters: Sequence[str] = ()):
        self._node = node
        self._unknown_parameters = tuple(unknown_parameters)
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def report(
        self,
        lifecycle: str,
        failed_transition: str | None,
        active_for_s: float | None,
        configured: Configured | None,
        values: Mapping[str, Any],
    ) -> None:
        """Publish what is known now.

        lifecycle: the node's state. failed_transition: why the last one failed. active_for_s: seconds since
        activation; None while inactive. configured: None while unconfigured. values: the node's parameters.
        """
        name = self._node.get_fully_qualified_name().lstrip("/")
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        runtime = self._runtime_state(lifecycle, failed_transition, configured, values)
        message.status.append(runtime_status(f"{name}: {RUNTIME}", runtime))
        if configured is not None:
            limits = Limits.of(values)
            for camera, snapshot in configured.pipeline.snapshot().items():
                state = self._camera_state(configured.topics[camera], active_for_s)
                message.status.append(camera_status(f"{name}: {camera}", snapshot, state, limits))
        self._publisher.publish(message)

    def _runtime_state(
        self,
        lifecycle: str,
        failed_transition: str | None,
        configured: Configured | None,
        values: Mapping[str, Any],
    ) -> RuntimeState:
        namesakes, unknown = self._namesakes(), self._unknown_parameters
        if configured is None:
            return RuntimeState(lifecycle, failed_transition, namesakes=namesakes, unknown_parameters=unknown)
        pipeline = configured.pipeline
        building = pipeline.building
        published = [snapshot.seconds_since_published for snapshot in pipeline.snapshot().values()]
        return RuntimeState(
            lifecycle=lifecycle,
            failed_transition=failed_transition,
            info=pipeline.restorer.info,
            building=None if building is None or building.frames > 1 else f"{BUILDING}{building}",
            failed_builds=tuple(pipeline.failed_builds),
            health=pipeline.health,
            batching=tuple(pipeline.batching),
            on_failure=OnFailure(values["on_failure"]),
            inference_timeout_s=values["inference_timeout_s"],
            namesakes=namesakes,
            unknown_parameters=unknown,
            seconds_since_output=min((s for s in published if s is not None), default=None),
        )

    def _namesakes(self) -> int:
        """How many other nodes have this one's name."""
        own = (self._node.get_name(), self._node.get_namespace())
        return self._node.get_node_names_and_namespaces().count(own) - 1

    def _camera_state(self, topics: CameraTopics, active_for_s: float | None) -> CameraState:
        return CameraState(
            active=active_for_s is not None,
            topic=topics.input_topic,
            publishers=self._node.count_publishers(topics.input_topic),
            connected=topics.connected_publishers,
            wanted=topics.wanted(),
            active_for_s=active_for_s,
            info_topic=topics.info_topic,
            info_problem=topics.info_problem,
            info_came=topics.info_came,
            info_wanted=topics.info_wanted,
            other_publishers=tuple(topics.other_publishers),
        )
