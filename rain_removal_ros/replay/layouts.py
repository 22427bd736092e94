"""Layouts of the viewers, made for a bag's camera from those in config/. Knows no viewer."""

from __future__ import annotations

from pathlib import Path

from rain_removal_ros.replay.topics import PlayedCamera, absolute
from rain_removal_ros.share import share_file

LAYOUTS = {"rviz": "config/replay.rviz", "foxglove": "config/replay_foxglove.json"}


def layout(viewer: str, camera: PlayedCamera, node_name: str = "derain") -> str:
    """The layout of `viewer`, one of LAYOUTS, that shows this camera of the node. Raises RainRemovalError.

    node_name: the node's, without its namespace.
    """
    text = share_file(LAYOUTS[viewer]).read_text()
    text = text.replace("/camera/image_raw", absolute(camera.camera.topic.name))
    text = text.replace("derain: camera", f"{camera.namespace}/{node_name}: {camera.name}".lstrip("/"))
    return text.replace("/camera/", camera.output(""))


def write_layout(viewer: str, camera: PlayedCamera, folder: Path, node_name: str = "derain") -> Path:
    """Write that layout into `folder`, and give its path."""
    path = folder / Path(LAYOUTS[viewer]).name
    path.write_text(layout(viewer, camera, node_name))
    return path
