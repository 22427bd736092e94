"""What a configured node holds: the network, the pipeline that feeds it, and the cameras' topics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rclpy.lifecycle import LifecycleNodeMixin

from rain_removal_ros import runtime
from rain_removal_ros.errors import ParameterError
from rain_removal_ros.pipeline import Listener, Options, Pipeline
from rain_removal_ros.ros import parameters
from rain_removal_ros.ros.camera_topics import CameraTopics, Incoming, TopicOptions
from rain_removal_ros.runtime import Output, Progress, Restorer, RuntimeInfo, RuntimeSettings

MakeRestorer = Callable[[RuntimeSettings, Progress], Restorer]


class Configured:
    """Loads the network and begins to compile for `image_sizes`; `end` lets go of everything.

    values: the node's parameters by name. options: the pipeline's, asked for every frame. say: told of what
    loading does, and of what was loaded. Leaves nothing behind where making it fails.
    """

    def __init__(
        self,
        node: LifecycleNodeMixin,
        values: Mapping[str, Any],
        make_restorer: MakeRestorer,
        options: Callable[[], Options],
        listener: Listener,
        say: Callable[[str], None],
    ):
        self.topics: dict[str, CameraTopics] = {}
        self._taking, self._takes = threading.Lock(), False
        settings = _settings(values)
        restorer = make_restorer(settings, say)
        try:
            for name, transport in parameters.image_transports(values).items():
                self.topics[name] = CameraTopics(
                    node, name, _topic_options(values, transport), self._on_image
                )
            _check_loops(self.topics)
        except Exception:
            restorer.close()
            self._destroy_topics()
            raise
        info = restorer.info
        say(f"{info.weights} ({info.weights_sha256[:12]}): {info.backend} {info.precision}, {info.device}")
        if not values["weights"]:
            say("the packaged weights are for research use; models/README.md says why")
        same = replace(settings, backend=info.backend, precision=info.precision)  # no other in silence
        meanwhile = _stand_in_settings(settings, info)
        self.pipeline = Pipeline(
            self.topics,
            restorer,
            listener,
            options=options,
            make_restorer=lambda: make_restorer(same, say),
            make_stand_in=(lambda: make_restorer(meanwhile, say)) if meanwhile else None,
        )
        every_output = {Output.IMAGE, Output.INVERSE_DEPTH}
        if values["segmentation"]:
            every_output.add(Output.LABELS)
        for size in parameters.image_sizes(values["image_sizes"]):
            for outputs in (every_output, {Output.IMAGE}):
                self.pipeline.build(size, frozenset(outputs))

    def open(self) -> None:
        """Subscribe to every camera's images."""
        with self._taking:
            self._takes = True
        for topics in self.topics.values():
            topics.open()

    def close(self) -> None:
        """End the subscriptions and publish nothing more; the network stays loaded."""
        with self._taking:
            self._takes = False
        self._close_topics()
        self.pipeline.clear()

    def end(self, timeout: float) -> bool:
        """Let go of network and topics. False where an inference or a build goes on after `timeout` s."""
        self._close_topics()
        ended = self.pipeline.close(timeout)
        self._destroy_topics()
        return ended

    def _on_image(self, camera: str, incoming: Incoming) -> None:
        with self._taking:
            if self._takes:  # a callback that was under way as the subscription ended comes too late
                self.pipeline.submit(camera, incoming)

    def _close_topics(self) -> None:
        for topics in self.topics.values():
            topics.close()

    def _destroy_topics(self) -> None:
        for topics in self.topics.values():
            topics.destroy()


def _check_loops(cameras: Mapping[str, CameraTopics]) -> None:
    """Raises ParameterError where the node would take its own outputs for inputs."""
    inputs = {topic: name for topics in cameras.values() for topic, name in topics.inputs.items()}
    outputs = {topic: name for topics in cameras.values() for topic, name in topics.outputs.items()}
    for topic in inputs.keys() & outputs.keys():
        raise ParameterError(
            f"the output {outputs[topic]} and the input {inputs[topic]} are both {topic}, so the node would "
            f"process its own images: remap {inputs[topic]} as well, to where the camera publishes, or give "
            f"{outputs[topic]} another name"
        )


def _settings(values: Mapping[str, Any]) -> RuntimeSettings:
    settings = parameters.runtime_settings(values)
    # every camera may want two sets of outputs, and none is to push out another's
    graphs = max(settings.graphs_in_memory, 2 * len(values["cameras"]))
    settings = replace(settings, graphs_in_memory=graphs)
    from rain_removal_ros.runtime.networks import with_contents  # PyTorch is loaded only from here on

    return with_contents(settings, values["segmentation"])  # what is made anew later is made of the same


def _stand_in_settings(settings: RuntimeSettings, info: RuntimeInfo) -> RuntimeSettings | None:
    """Those of what can serve while the network is compiled; None where its backend has no such."""
    kind = runtime.KINDS.get(info.backend)
    return replace(settings, backend=kind.stand_in, precision="auto") if kind and kind.stand_in else None


def _topic_options(values: Mapping[str, Any], transport: str) -> TopicOptions:
    return TopicOptions(
        image_transport=transport,
        segmentation=values["segmentation"],
        queue_length=values["queue_length"],
        jpeg_quality=values["jpeg_quality"],
    )
