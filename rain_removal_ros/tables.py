"""Tables for terminals and for Markdown, by tabulate. Knows texts and figures, not what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tabulate import tabulate

Cells = Iterable[Iterable[object]]


def markdown(header: Sequence[str], rows: Cells, figures: bool = False, compact: bool = False) -> str:
    """A Markdown table without a line break at its end.

    figures: all columns but the first are aligned to the right. compact: without the spaces that align its
    columns for a terminal. Cells are shown as they are; a `|` in one must come as `\\|`.
    """
    texts = [[str(cell) for cell in row] for row in rows]
    align = ["left", *["right"] * (len(header) - 1)] if figures else ["left"] * len(header)
    # "pipe" marks the alignment in its rule, "github" does not
    table = tabulate(
        texts, header, tablefmt="pipe" if figures else "github", colalign=align if texts else None,
        disable_numparse=True,
    )  # fmt: skip
    if not compact:
        return table
    return re.sub(r" +\|", " |", re.sub(r"\| +", "| ", re.sub(r"-{4,}", "---", table)))


def plain(header: Sequence[str], rows: Cells) -> str:
    """A table for a terminal: the first column to the left, figures to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    align = ["left", *["right"] * (len(header) - 1)]
    return tabulate(texts, header, tablefmt="plain", colalign=align, disable_numparse=True)
