"""Weights files as files: who may read them, and what is said of those that cannot be read or written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rain_removal_ros.errors import OutputError
from rain_removal_ros.network import build_network, load_network, save_network


def test_weights_are_readable_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        save_network(build_network("segmentation"), tmp_path / "a.safetensors", {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644
    assert load_network(tmp_path / "a.safetensors")[0].preset.name == "segmentation"


def test_weights_that_do_not_fit_on_the_disk_leave_the_old_ones(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"the old ones")

    def full(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"a\.safetensors cannot be written \(No space left on device\)"):
        save_network(build_network("segmentation"), path, {})
    assert path.read_bytes() == b"the old ones" and list(tmp_path.iterdir()) == [path]
