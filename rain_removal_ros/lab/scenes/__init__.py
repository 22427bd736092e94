"""A procedural drive: video of a street from a moving camera with exact depth and labels. Knows no rain,
ROS or torch.

drive = Drive(width=640, height=360, frame_count=100, seed=0)
frame = drive[42]                          # any frame by itself
for frame in render_frames(drive): ...     # all of them, in several processes
"""

from rain_removal_ros.cityscapes import TrainId
from rain_removal_ros.lab.scenes.drive import CameraModel, Drive, DriveFrame
from rain_removal_ros.lab.scenes.parallel import render_frames

__all__ = ["CameraModel", "Drive", "DriveFrame", "TrainId", "render_frames"]
