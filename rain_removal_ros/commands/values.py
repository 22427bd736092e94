"""What texts on the command line mean, for argparse: sizes, and numbers within bounds."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from rain_removal_ros.errors import ParameterError
from rain_removal_ros.runtime.sizes import parse_size


def image_size(text: str) -> tuple[int, int]:
    """`parse_size` for argparse."""
    try:
        return parse_size(text)
    except ParameterError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def whole_number(least: int) -> Callable[[str], int]:
    """Takes whole numbers of at least `least`."""

    def take(text: str) -> int:
        try:
            number = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error
        if number < least:
            raise argparse.ArgumentTypeError(f"{text} is too small; give {least} or more")
        return number

    return take


def positive(text: str) -> float:
    """Takes numbers above 0."""
    try:
        number = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not possible; give a number above 0")
    return number
