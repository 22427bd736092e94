"""The way of a frame from its arrival to what is published: newest frame wins, one worker, every stage timed.

Knows neither ROS nor any network: messages are opaque, each camera's `FrameHandler` reads and publishes them,
a `Restorer` restores.
"""

from rain_removal_ros.frame_statistics import (
    CameraSnapshot,
    Counts,
    Distribution,
    Problem,
    Stage,
    StageTimes,
    Way,
)
from rain_removal_ros.pipeline.interfaces import (
    Build,
    FrameHandler,
    Health,
    Listener,
    OnFailure,
    Options,
    OutputSet,
)
from rain_removal_ros.pipeline.pipeline import Pipeline

__all__ = [
    "Build",
    "CameraSnapshot",
    "Counts",
    "Distribution",
    "FrameHandler",
    "Health",
    "Listener",
    "OnFailure",
    "Options",
    "OutputSet",
    "Pipeline",
    "Problem",
    "Stage",
    "StageTimes",
    "Way",
]
