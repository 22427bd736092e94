"""A camera and a subscriber in a process of their own: plays frames, prints what came back as JSON.

python camera_process.py WIDTH HEIGHT IMAGES
"""

from __future__ import annotations

import json
import sys

import numpy as np
from ros_harness import BEST_EFFORT, PATIENCE, Peer, camera_info_of, image_of, values_of
from sensor_msgs.msg import CameraInfo

from rain_removal_ros.runtime import Output

ATTEMPTS = 10 * int(PATIENCE)  # diagnostics, which every frame waits for, come ten times a second or less


def main() -> None:
    peer = Peer()
    try:
        print(json.dumps(play(peer, *map(int, sys.argv[1:]))))
    finally:
        peer.close()


def play(peer: Peer, width: int, height: int, wanted: int) -> dict:
    """Publish best-effort frames until so many images came back; what the node made of them.

    Frame follows frame when the node is done with all that it received, so that neither the machine's speed
    nor the transport's memory decides what is seen. What arrives at a camera's rate is measured by
    `derain benchmark --node`.
    """
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    images = peer.output(Output.IMAGE)
    infos = peer.subscribe(CameraInfo, "camera/derained/camera_info")
    info_publisher = peer.node.create_publisher(CameraInfo, "camera/camera_info", BEST_EFFORT)
    camera = peer.camera(qos=BEST_EFFORT)
    while not images:  # the network is compiled for the first frame that arrives
        camera.publish(image_of(pixels, "bgr8"))
        counts(peer)
    before = counts(peer)
    for second in range(2, 2 + ATTEMPTS):
        info_publisher.publish(camera_info_of(second, height, width))
        camera.publish(image_of(pixels, "bgr8", second=second))
        after = counts(peer)
        seconds = {image.header.stamp.sec for image in list(images)} - {1}
        if len(seconds) >= wanted:
            break
    return {
        **{key: after[key] - before[key] for key in after},
        "images": sorted(seconds),
        "infos": sorted({info.header.stamp.sec for info in infos}),
        "size": [images[-1].width, images[-1].height],
        "encoding": images[-1].encoding,
    }


def counts(peer: Peer) -> dict[str, int]:
    """The node's counts when all that it received is done with."""

    def idle(status) -> bool:
        values = values_of(status)
        done = ("published", "dropped", "not computed, no subscribers", "bad input")
        return int(values["received"]) == sum(int(values[key]) for key in done)

    values = values_of(peer.status("derain: camera", idle))
    return {key: int(values[key]) for key in ("received", "published", "dropped")}


if __name__ == "__main__":
    main()
