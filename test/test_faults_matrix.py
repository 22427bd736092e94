"""The fault matrix can be started. `make faults` runs it, which takes too long for a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import faults.bench  # noqa: F401  what the matrix needs is what this file needs


def test_the_fault_matrix_starts() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "faults.matrix", "--help"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert "--only" in run.stdout
