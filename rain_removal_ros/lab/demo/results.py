"""What came of a demo: figures as data and as tables, and pictures. Knows recordings, not the node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from tqdm import tqdm

from rain_removal_ros.colours import colour_inverse_depth
from rain_removal_ros.files.images import write_image
from rain_removal_ros.files.video import VideoSink
from rain_removal_ros.lab.evaluation.metrics import depth_errors, psnr, ssim
from rain_removal_ros.lab.evaluation.sheet import SheetRow, draw_sheet
from rain_removal_ros.ros import status
from rain_removal_ros.tables import plain

if TYPE_CHECKING:
    from rain_removal_ros.lab.demo.playback import Recording
    from rain_removal_ros.lab.scenes import DriveFrame

SHEET, VIDEO, FRAME, FIGURES = "sheet.png", "side_by_side.mp4", "before_after.png", "summary.json"
SHEET_ROWS = 4


@dataclass(frozen=True)
class Summary:
    """The figures of one run: dB, shares, milliseconds, counts."""

    frames_in: int
    frames_out: int
    dropped: int
    psnr_rainy: float
    psnr_derained: float
    ssim_rainy: float
    ssim_derained: float
    inverse_depth_abs_rel: float
    inverse_depth_delta: float
    latency_ms: dict[str, dict[str, float]]
    backend: str
    precision: str
    device: str
    reason: str

    @property
    def improved(self) -> bool:
        """Whether the node did what it is for: pictures came back, and better ones than went in."""
        return (
            self.frames_out > 0
            and self.psnr_derained > self.psnr_rainy
            and self.ssim_derained > self.ssim_rainy
        )


def summarise(
    frames: Sequence[DriveFrame],
    rainy: Sequence[np.ndarray],
    recording: Recording,
    camera: dict[str, str],
    runtime: dict[str, str],
) -> Summary:
    """The figures of a recording; `camera` and `runtime` are the node's last diagnostics."""
    pairs = [(frames[i].image, rainy[i], recording.derained[i]) for i in sorted(recording.derained)]
    measured = [
        depth_errors(recording.inverse_depth[i], frames[i].inverse_depth) for i in recording.inverse_depth
    ]
    errors = [error for error in measured if error is not None]
    latency = {
        stage: {part: float(camera[status.latency(stage, part)]) for part in ("median", "p95", "p99")}
        for stage in status.STAGES
        if status.latency(stage, "median") in camera
    }
    seen = 1e3 * np.array(list(recording.latency.values()))
    latency["published to recorded"] = {
        part: float(np.quantile(seen, share))
        for part, share in (("median", 0.5), ("p95", 0.95), ("p99", 0.99))
    }
    return Summary(
        frames_in=len(rainy),
        frames_out=len(recording.derained),
        dropped=len(rainy) - len(recording.derained),
        psnr_rainy=float(np.mean([psnr(wet, clean) for clean, wet, _ in pairs])),
        psnr_derained=float(np.mean([psnr(restored, clean) for clean, _, restored in pairs])),
        ssim_rainy=float(np.mean([ssim(wet, clean) for clean, wet, _ in pairs])),
        ssim_derained=float(np.mean([ssim(restored, clean) for clean, _, restored in pairs])),
        inverse_depth_abs_rel=float(np.mean([error.inverse_abs_rel for error in errors])),
        inverse_depth_delta=float(np.mean([error.delta for error in errors])),
        latency_ms=latency,
        backend=runtime["backend"],
        precision=runtime["precision"],
        device=runtime["device"],
        reason=runtime["reason"],
    )


def table(summary: Summary) -> str:
    """The figures as tables for a terminal."""
    quality = [
        ("PSNR (dB)", f"{summary.psnr_rainy:.2f}", f"{summary.psnr_derained:.2f}"),
        ("SSIM", f"{summary.ssim_rainy:.4f}", f"{summary.ssim_derained:.4f}"),
        ("inverse depth AbsRel", "", f"{summary.inverse_depth_abs_rel:.3f}"),
        ("inverse depth < 1.25", "", f"{summary.inverse_depth_delta:.3f}"),
    ]
    latency = [
        (stage, *(f"{times[part]:.2f}" for part in ("median", "p95", "p99")))
        for stage, times in summary.latency_ms.items()
    ]
    return "\n".join(
        [
            "",
            f"frames   in {summary.frames_in}, out {summary.frames_out}, dropped {summary.dropped}",
            f"backend  {summary.backend} {summary.precision} on {summary.device}",
            f"         {summary.reason}",
            "",
            plain(("against the truth", "rainy", "derained"), quality),
            "",
            plain(("latency (ms)", "median", "p95", "p99"), latency),
            "",
        ]
    )


def draw_results(
    frames: Sequence[DriveFrame],
    rainy: Sequence[np.ndarray],
    recording: Recording,
    output: Path,
    rate: float,
) -> None:
    """Write the contact sheet, the video (rainy, derained, inverse depth, truth) and one frame."""
    shown = [i for i in sorted(recording.derained) if i in recording.inverse_depth]
    chosen = [
        shown[k] for k in np.linspace(0, len(shown) - 1, min(SHEET_ROWS, len(shown))).round().astype(int)
    ]
    rows = []
    for i in chosen:
        gain = psnr(recording.derained[i], frames[i].image) - psnr(rainy[i], frames[i].image)
        caption = f"frame {i}: rainy | derained ({gain:+.1f} dB) | inverse depth | truth"
        depth = colour_inverse_depth(recording.inverse_depth[i])
        rows.append(SheetRow(caption, (rainy[i], recording.derained[i], depth, frames[i].image)))
    write_image(output / SHEET, draw_sheet(rows))
    fraction = Fraction(rate).limit_denominator(1001)
    with VideoSink(output / VIDEO, fraction, 1 / fraction) as sink:
        for i in tqdm(shown, desc="write the video", unit="frame"):
            depth = colour_inverse_depth(recording.inverse_depth[i])
            tiles = {
                "rainy": rainy[i],
                "derained": recording.derained[i],
                "inverse depth": depth,
                "truth": frames[i].image,
            }
            named = [_named(tile, name) for name, tile in tiles.items()]
            if i == shown[len(shown) // 2]:
                write_image(output / FRAME, np.hstack(named[:3]))
            sink.write(np.vstack([np.hstack(named[:2]), np.hstack(named[2:])]), i)


def _named(tile: np.ndarray, name: str) -> np.ndarray:
    tile = tile.copy()
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(tile, name, (10, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, colour, thickness, cv2.LINE_AA)
    return tile
