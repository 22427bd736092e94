"""Imported beside OpenCV where images are decoded: whoever asked tells of a damaged one, at most once a
second; OpenCV would write a line for each.
"""

from cv2.utils import logging

logging.setLogLevel(logging.LOG_LEVEL_SILENT)
