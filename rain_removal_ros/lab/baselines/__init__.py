"""Networks to compare with and to judge by. Importing this registers their families with `network`."""

from rain_removal_ros.lab.baselines.dgnl import DGNLFastNetwork
from rain_removal_ros.lab.baselines.efficientnet import JudgeNetwork
from rain_removal_ros.lab.baselines.paper import PaperNetwork
from rain_removal_ros.network import register_family

register_family("paper", PaperNetwork)
register_family("dgnl", DGNLFastNetwork)
register_family("efficientnet-lite0", JudgeNetwork)
