"""`derain image IN ... OUT`: restores image files one after the other. A file that fails is named, and the
rest goes on.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

from tqdm import tqdm

from rain_removal_ros.commands.panels import add_panel_arguments, outputs_of, panels
from rain_removal_ros.commands.runtime_options import (
    add_runtime_arguments,
    add_weights_arguments,
    settings_from,
)
from rain_removal_ros.encodings import Picture
from rain_removal_ros.errors import BackendError, ImageError, OutputError
from rain_removal_ros.files.images import plan, read_image_file, write_image, write_image_file
from rain_removal_ros.output import make_folder
from rain_removal_ros.runtime import create_restorer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `derain image`."""
    parser.add_argument(
        "inputs",
        type=Path,
        nargs="+",
        metavar="IN",
        help="image files, or folders of them, where hidden files are left out",
    )
    parser.add_argument(
        "output",
        type=Path,
        metavar="OUT",
        help="a file for a single image, else a folder; existing results are replaced, inputs never",
    )
    add_panel_arguments(parser, "image")
    add_weights_arguments(parser)
    add_runtime_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Restore. Exit status 1 where a file could not be read, restored or written."""
    outputs, sheet = outputs_of(arguments), arguments.side_by_side or arguments.depth
    jobs = plan(
        arguments.inputs, arguments.output, lambda text: print(f"derain image: {text}", file=sys.stderr)
    )
    make_folder(jobs[0].target.parent)  # before the work, not after it
    failed = 0
    with (
        closing(create_restorer(settings_from(arguments))) as restorer,
        tqdm(jobs, unit="image", desc="derain", file=sys.stderr) as bar,
    ):
        tell = partial(bar.write, file=sys.stderr)
        for job in bar:
            try:
                image = read_image_file(job.source)
                rgb = image.picture.rgb
                height, width = rgb.shape[:2]
                restorer.prepare(height, width, outputs, tell)
                restored = restorer(rgb, outputs, arguments.focal_px)
                if sheet:  # to look at: colours of 8 bits, and nothing else of the file
                    shown = panels(Picture(rgb, "rgb8"), restored, arguments.side_by_side)
                    write_image(job.target, shown)
                    continue
                assert restored.image is not None  # it was asked for
                lost = write_image_file(job.target, image, restored.image)
                if lost:
                    tell(f"derain image: {job.target} is without {', '.join(lost)} of {job.source}")
            except (ImageError, OutputError, BackendError) as error:
                failed += 1
                text = str(error)
                tell(f"derain image: {text if str(job.source) in text else f'{job.source}: {text}'}")
    print(f"{len(jobs) - failed} of {len(jobs)} images restored to {arguments.output}")
    return 1 if failed else 0
