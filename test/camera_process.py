"""A camera and a subscriber in a process of their own: plays frames, prints what came back as JSON.

python camera_process.py WIDTH HEIGHT HERTZ FRAMES
"""

from __future__ import annotations

import json
import sys
import threading
import time

import numpy as np
from ros_harness import BEST_EFFORT, Peer, camera_info_of, image_of, values_of
from sensor_msgs.msg import CameraInfo

from rain_removal_ros.runtime import Output


def main() -> None:
    width, height, hertz, frames = map(int, sys.argv[1:])
    peer = Peer()
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    images = peer.output(Output.IMAGE)
    infos = peer.subscribe(CameraInfo, "camera/derained/camera_info")
    info_publisher = peer.node.create_publisher(CameraInfo, "camera/camera_info", BEST_EFFORT)
    camera = peer.camera(qos=BEST_EFFORT)
    camera.publish(image_of(pixels, "bgr8"))  # compiles the network
    peer.wait_for(lambda: images, "for the first output")
    before = {key: int(value) for key, value in counts(peer).items()}
    ticker = threading.Event()
    begin = time.perf_counter()
    for number in range(frames):
        info_publisher.publish(camera_info_of(number + 2))
        camera.publish(image_of(pixels, "bgr8", second=number + 2))
        ticker.wait(max(0.0, begin + (number + 1) / hertz - time.perf_counter()))  # nothing sets it: a clock
    after = {key: int(value) for key, value in counts(peer).items()}
    result = {
        **{key: after[key] - before[key] for key in after},
        "images": sorted({image.header.stamp.sec for image in images}),
        "infos": sorted({info.header.stamp.sec for info in infos}),
        "size": [images[-1].width, images[-1].height],
        "encoding": images[-1].encoding,
    }
    peer.close()
    print(json.dumps(result))


def counts(peer: Peer) -> dict[str, str]:
    """The node's counts when all that it received is done with."""

    def idle(status) -> bool:
        values = values_of(status)
        done = ("published", "dropped", "not computed, no subscribers", "bad input")
        return int(values["received"]) == sum(int(values[key]) for key in done)

    values = values_of(peer.status("derain: camera", idle))
    return {key: values[key] for key in ("received", "published", "dropped")}


if __name__ == "__main__":
    main()
