"""What a run shows of itself: means over its steps, their log, the log's plot, and sheets of samples."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from rain_removal_ros.files.images import write_image
from rain_removal_ros.lab.training.samples import Sample
from rain_removal_ros.network import MAX_PIXELS_PER_METRE
from rain_removal_ros.output import appearing, write_text

SHOWN = 6
"""Samples of a sheet, at most."""


def sample_sheet(batch: Sample, restored: Tensor, depth: Tensor | None) -> np.ndarray:
    """uint8 (H, W, 3) RGB: a row each of rainy, restored and clean samples and, where there is one, of their
    estimated pixels per metre.
    """

    def tiles(images: Tensor) -> np.ndarray:
        return np.hstack(list(images[:SHOWN].detach().permute(0, 2, 3, 1).clamp(0, 255).byte().cpu().numpy()))

    rows = [tiles(batch["rainy"].float()), tiles(255 * restored.float()), tiles(batch["clean"].float())]
    if depth is None:
        return np.vstack(rows)
    side = restored.shape[-1]
    share = (depth[:SHOWN, 0].detach().float() / MAX_PIXELS_PER_METRE).clamp(0, 1).sqrt().sqrt().cpu().numpy()
    depth_tiles = [cv2.resize((255 * tile).astype(np.uint8), (side, side)) for tile in share]
    coloured = cv2.applyColorMap(np.hstack(depth_tiles), cv2.COLORMAP_MAGMA)
    return np.vstack([*rows, cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)])


def write_sheet(path: Path, batch: Sample, restored: Tensor, depth: Tensor | None) -> None:
    """Write the sheet of a batch. Raises OutputError."""
    write_image(path, sample_sheet(batch, restored, depth))


@dataclass(frozen=True)
class Reading:
    """What a run saw over some steps: means of its loss terms, weighted, and of the gradient's norm."""

    terms: dict[str, float]
    gradient_norm: float
    steps_a_second: float


class Meter:
    """Takes what every step gives, on whatever device it lies, and reads it together: one transfer for many
    steps.
    """

    def __init__(self, step: int):
        self._names: list[str] = []
        self._seen: list[Tensor] = []
        self._since, self._began = step, time.monotonic()

    def add(self, terms: dict[str, Tensor], gradient_norm: Tensor) -> None:
        """Terms of one step, the same ones in every step, and the norm of its gradient."""
        self._names = list(terms)
        values = [*(term.detach().float() for term in terms.values()), gradient_norm.float()]
        self._seen.append(torch.stack(values))

    def read(self, step: int) -> Reading:
        """The steps since the last reading, which there must be, up to `step`; it begins anew."""
        *means, norm = torch.stack(self._seen).mean(0).tolist()
        now = time.monotonic()
        steps_a_second = (step - self._since) / (now - self._began)
        self._seen.clear()
        self._since, self._began = step, now
        return Reading(dict(zip(self._names, means, strict=True)), norm, steps_a_second)


class StepTable:
    """Figures by step in a CSV file, which grows when a run is resumed."""

    def __init__(self, path: Path, step: int):
        """Rows after `step` are of a run that was cut off and is now repeated from its checkpoint: they
        go. Raises OutputError.
        """
        self.path = path
        if path.exists():
            with open(path, newline="") as file:
                header, *rows = list(csv.reader(file)) or [[]]
            kept = io.StringIO(newline="")
            csv.writer(kept).writerows(
                [header, *(row for row in rows if row and row[0].isdigit() and int(row[0]) <= step)]
            )
            write_text(path, kept.getvalue())

    def append(self, row: Mapping[str, object]) -> None:
        """Add a row, the step among its columns."""
        fresh = not self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if fresh:
                writer.writeheader()
            writer.writerow(row)

    def columns(self) -> dict[str, list[float]]:
        """What was written so far, by column; none where nothing was."""
        if not self.path.exists():
            return {}
        with open(self.path, newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}


class LogFile(StepTable):
    """Loss terms by step, and their plot."""

    def write(
        self,
        step: int,
        learning_rate: float,
        samples_per_second: float,
        gradient_norm: float,
        terms: dict[str, float],
    ) -> None:
        row = {
            "step": step,
            "learning_rate": f"{learning_rate:.6g}",
            "samples_per_second": f"{samples_per_second:.1f}",
            "gradient_norm": f"{gradient_norm:.4g}",
        } | {k: f"{v:.6g}" for k, v in terms.items()}
        self.append(row)

    def plot(self, path: Path, validation: StepTable | None = None) -> None:
        """Draw every term over the steps, on a logarithmic scale, and below it what was validated: gains, and
        what has no gain in its name, for itself. Raises OutputError.
        """
        terms = self.columns()
        if not terms:
            return
        measured = validation.columns() if validation else {}
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        beside = ("step", "learning_rate", "samples_per_second", "gradient_norm")
        panels = [(terms, [name for name in terms if name not in beside], "loss (weighted)")]
        if measured:
            gains = [name for name in measured if "gain" in name]
            rest = [name for name in measured if name not in ("step", *gains)]
            panels += [(measured, gains, "validation, dB"), (measured, rest, "validation, dB")]
        figure, grid = pyplot.subplots(
            len(panels), sharex=True, squeeze=False, figsize=(9, 5 + 2.5 * (len(panels) - 1))
        )
        for axes, (table, names, label) in zip(grid[:, 0], panels, strict=True):
            for name in names:
                axes.plot(table["step"], table[name], label=name, marker="." if table is measured else None)
            axes.set(ylabel=label)
            axes.legend()
        grid[0, 0].set_yscale("symlog", linthresh=1e-3)
        grid[-1, 0].set(xlabel="step")
        figure.tight_layout()
        with appearing(path) as partial:
            figure.savefig(partial, dpi=110)
        pyplot.close(figure)
