"""Shows what is played, and what comes back of it, in the browser."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from rain_removal_ros.bags.messages import IMAGE, parse, plane, read_picture, stamp_ns
from rain_removal_ros.bags.storage import Record
from rain_removal_ros.bags.viewer import Shown, Viewer
from rain_removal_ros.colours import colour_inverse_depth
from rain_removal_ros.errors import ImageError
from rain_removal_ros.replay.player import Player
from rain_removal_ros.replay.topics import absolute

STATUS_EVERY_S = 0.3
STAMPS_KEPT = 100


@contextmanager
def showing(player: Player, viewer: Viewer, segmentation: bool) -> Iterator[None]:
    """Show what is played and what comes back on the viewer's page while the block lasts.

    Depth and masks are subscribed to, and so computed, from the first look at the page on.
    """
    by_topic = {absolute(c.camera.topic.name): c for c in player.cameras}
    played_at: OrderedDict[tuple[str, int], float] = OrderedDict()
    stopped = threading.Event()

    def on_played(name: str, record: Record) -> None:
        camera = by_topic.get(name)
        if camera is None or not viewer.watched:
            return
        try:
            message = parse(record.data, camera.camera.topic.type)
        except ImageError:
            return
        stamp = stamp_ns(message)
        played_at[camera.name, stamp] = time.perf_counter()
        if len(played_at) > STAMPS_KEPT:
            played_at.popitem(last=False)
        viewer.show(camera.name, "before", Shown(stamp, lambda: read_picture(message).rgb))

    outputs = {
        camera.output(f"{kind}/{output}"): (camera.name, kind)
        for camera in player.cameras
        for kind, output in (
            ("derained", "image"),
            ("depth", "inverse_depth"),
            ("segmentation", "color_mask"),
        )
    }

    def on_output(name: str, data: bytes) -> None:
        if not viewer.watched:
            return
        camera, kind = outputs[name]
        message = parse(data, IMAGE)
        stamp = stamp_ns(message)
        if kind == "depth":
            viewer.show(
                camera, "depth", Shown(stamp, lambda: colour_inverse_depth(plane(message, np.float32)))
            )
            return
        began = played_at.get((camera, stamp))
        latency = None if kind != "derained" or began is None else (time.perf_counter() - began) * 1e3
        panel = "after" if kind == "derained" else "mask"
        viewer.show(camera, panel, Shown(stamp, lambda: read_picture(message).rgb, latency))

    def tell() -> None:
        subscribed = False
        while not stopped.wait(STATUS_EVERY_S):
            if viewer.watched and not subscribed:
                for camera in player.cameras:
                    player.watch(camera.output("depth/inverse_depth"), IMAGE, on_output)
                    if segmentation:
                        player.watch(camera.output("segmentation/color_mask"), IMAGE, on_output)
                subscribed = True
            diagnostics = [
                {"name": s.name, "level": s.level, "message": s.message} for s in player.statuses.values()
            ]
            seconds, total = player.position
            viewer.status({"diagnostics": diagnostics, "seconds": seconds, "total": total})

    player.watch_played(on_played)
    for camera in player.cameras:
        player.watch(camera.output("derained/image"), IMAGE, on_output)
    teller = threading.Thread(target=tell, name="viewer-status")
    teller.start()
    try:
        yield
    finally:
        stopped.set()
        teller.join()
