"""Imported beside OpenCV where images are decoded: whoever asked tells of a damaged one, at most once a
second; OpenCV would write a line for each.
"""

import cv2

try:
    from cv2.utils import logging
except ImportError:  # OpenCV 4.6, which Ubuntu 24.04 has
    cv2.setLogLevel(0)  # type: ignore[attr-defined]
else:
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
