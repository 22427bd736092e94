"""Records what comes back of a replay into a bag."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rain_removal_ros.bags.messages import CAMERA_INFO, IMAGE
from rain_removal_ros.bags.storage import Topic
from rain_removal_ros.bags.writing import BagWriter
from rain_removal_ros.errors import BagError
from rain_removal_ros.replay.player import Player
from rain_removal_ros.replay.topics import PlayedCamera


@contextmanager
def recording(
    player: Player, cameras: Sequence[PlayedCamera], path: Path, segmentation: bool
) -> Iterator[None]:
    """Record the node's outputs and its diagnostics into the bag `path` while the block lasts.

    Times are the bag's own. Raises BagError.
    """
    outputs = {"derained/image": IMAGE, "derained/camera_info": CAMERA_INFO, "depth/inverse_depth": IMAGE}
    if segmentation:
        outputs["segmentation/mask"] = IMAGE
    topics = {
        camera.output(name): Topic(camera.output(name), type_name)
        for camera in cameras
        for name, type_name in outputs.items()
    }
    topics["/diagnostics"] = Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    with BagWriter(path, topics.values()) as writer:
        lock, open_ = threading.Lock(), [True]
        failure: list[BagError] = []

        def write(name: str, data: bytes) -> None:
            with lock:
                if open_[0] and not failure:
                    try:
                        writer.write(topics[name], player.now, data)
                    except BagError as error:  # raised again where the recording ends
                        failure.append(error)
                        player.stop()

        for name, topic in topics.items():
            player.watch(name, topic.type, write)
        try:
            yield
        finally:
            with lock:
                open_[0] = False
        if failure:
            raise failure[0]
