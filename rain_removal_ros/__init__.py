"""Real-time, depth-guided rain removal for cameras on vehicles. The version number of every way to install
lives here.
"""

__version__ = "0.1.0"
