"""Networks to compare with. Importing this registers their families with `network`."""

from rain_removal_ros.lab.baselines.dgnl import DGNLFastNetwork
from rain_removal_ros.lab.baselines.paper import PaperNetwork
from rain_removal_ros.network import register_family

register_family("paper", PaperNetwork)
register_family("dgnl", DGNLFastNetwork)
