"""The columns of a report's tables: which figure each shows, and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rain_removal_ros.lab.evaluation.summary import Figures
from rain_removal_ros.tables import markdown


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of figures, with a line break at its end."""
    return markdown(header, rows, figures=True) + "\n"


@dataclass(frozen=True)
class Column:
    """A figure of the summary as a column of a table."""

    title: str
    figure: str
    write: Callable[[float], str]


decibels, gain = "{:.2f}".format, "{:+.2f}".format
grey_levels, signed_grey_levels = "{:.1f}".format, "{:+.1f}".format
ratio = "{:.3f}".format


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f} %"


def cell(figures: Figures, column: Column) -> str:
    """What a table shows of some figures in a column: nothing where they lack it."""
    return column.write(figures[column.figure]) if column.figure in figures else ""


RESTORATION = (
    Column("PSNR", "psnr", decibels),
    Column("gain", "psnr_gain", gain),
    Column("worst", "psnr_gain_worst", gain),
    Column("below sky", "psnr_below", decibels),
    Column("gain", "psnr_below_gain", gain),
    Column("SSIM", "ssim", ratio),
    Column("below sky", "ssim_below", ratio),
    Column("harmed below sky", "harmed_below", percent),
    Column("harmed", "harmed", percent),
    Column("too bright below sky", "light_below", signed_grey_levels),
    Column("sky off", "sky_brightness", grey_levels),
    Column("its hue", "sky_hue", grey_levels),
)
LUMA = (Column("PSNR of Y", "psnr_y", decibels), Column("SSIM of Y", "ssim_y", ratio))
DRY_COLUMNS = (
    Column("PSNR", "psnr", decibels),
    Column("worst", "psnr_worst", decibels),
    Column("changed below sky", "harmed_below", percent),
    Column("rain?", "rain", ratio),
    Column("at most", "rain_worst", ratio),
    Column("seen as foggy", "foggy", percent),
)
DEPTH = (
    Column("AbsRel (distance)", "abs_rel", ratio),
    Column("within 80 m", "abs_rel_80", ratio),
    Column("AbsRel (inverse depth)", "inverse_abs_rel", ratio),
    Column("δ < 1.25", "delta_1.25", percent),
)


def judgement(judge: str) -> tuple[Column, ...]:
    """The columns of one judge."""
    return (
        Column("agreement", f"agreement/{judge}", percent),
        Column("won back", f"won_back/agreement/{judge}", percent),
        Column("mIoU", f"miou/{judge}", percent),
        Column("won back", f"won_back/miou/{judge}", percent),
    )


UNCERTAIN = (
    Column("gain", "psnr_gain", gain),
    Column("below sky", "psnr_below_gain", gain),
    Column("SSIM", "ssim", ratio),
)
"""Figures of which intervals are given, beside the agreement won back of every judge."""


def interval(figures: Figures, column: Column) -> str:
    """A figure with its interval; nothing where there is none."""
    if column.figure not in figures:
        return ""
    value, low, high = (column.write(figures[column.figure][key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def signed_percent(value: float) -> str:
    """A difference of shares, in percent points."""
    return f"{100 * value:+.1f}"
