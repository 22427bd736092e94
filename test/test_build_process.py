"""Compiling in a process of its own: what it gives, how it fails, and that nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from waiting import PATIENCE, eventually

from rain_removal_ros.errors import BackendError, WeightsError
from rain_removal_ros.runtime import build_process
from rain_removal_ros.runtime.build_process import BuildCancelledError, BuildOrder, BuildProcess, Cancellation


@pytest.fixture
def process(monkeypatch):
    monkeypatch.setattr(build_process, "PRELOADED", ())  # the server starts at once
    process = BuildProcess()
    yield process
    if process._server is not None:
        process._end(process._server)


def order(function: str, files: dict[str, bytes] | None = None, **options) -> BuildOrder:
    return BuildOrder(f"build_fixtures:{function}", files or {}, options)


def build(process: BuildProcess, *what, **options) -> bytes:
    return process.build(order(*what, **options), Cancellation())


def ended(process_id: int) -> bool:
    """Wait until this process, whoever's child it is, has ended."""
    try:
        handle = os.pidfd_open(process_id)
    except ProcessLookupError:
        return True
    try:
        return bool(build_process.select.select([handle], [], [], PATIENCE)[0])
    finally:
        os.close(handle)


def wait_for_file(path: Path) -> str:
    return eventually(lambda: path.exists() and path.read_text(), f"{path} to be written")


def test_what_the_builder_gives_comes_back_whatever_it_prints(process):
    assert build(process, "echo", {"a": b"\n{}", "b": bytes(300_000)}, text="end") == (
        b"\n{}" + bytes(300_000) + b"end"
    )
    first = process._server.pid
    assert build(process, "echo", text="again") == b"again"
    assert process._server.pid == first


def test_a_build_that_waits_for_another_can_be_given_up(process, tmp_path):
    def sleep():
        with pytest.raises(BackendError):
            build(process, "sleep_for_ever")

    first = threading.Thread(target=sleep)
    first.start()
    eventually(lambda: process._current, "the first build to begin")
    cancellation = Cancellation()
    process.cancel(cancellation)
    with pytest.raises(BuildCancelledError):
        process.build(order("echo", text="never"), cancellation)
    assert first.is_alive()
    process._end(process._server)
    first.join(PATIENCE)


def test_a_module_in_the_current_folder_is_not_taken_for_pythons_own(process, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert build(process, "echo", text="on") == b"on"


def test_an_error_of_ours_comes_back_as_it_is_and_a_defect_as_a_failed_build(process):
    with pytest.raises(WeightsError, match="weights file x does not fit"):
        build(process, "refuse")
    with pytest.raises(BackendError, match="the build failed: KeyError: 'a defect'"):
        build(process, "defect")
    assert build(process, "echo", text="on") == b"on"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_builder_that_dies_is_a_failed_build_that_says_how_and_the_next_one_works(process, number):
    said = rf"died \({number.name}\); {'is there enough memory' if number == signal.SIGKILL else 'see'}"
    with pytest.raises(BackendError, match=said):
        build(process, "die", number=int(number))
    with pytest.raises(BackendError, match=r"died \(exit status 1\)"):
        build(process, "leave")
    assert build(process, "echo", text="on") == b"on"


def test_a_server_that_ended_for_want_of_work_is_started_again(process, monkeypatch):
    monkeypatch.setattr(build_process, "IDLE_S", 0.0)
    for text in ("one", "two"):
        assert build(process, "echo", text=text) == text.encode()
        assert process._server.wait(PATIENCE) == 0


@pytest.mark.parametrize("reason", ["cancelled", "others more urgent"])
def test_a_build_that_is_given_up_ends_at_once_with_its_process(process, tmp_path, reason):
    urgent, raised = threading.Event(), []
    cancellation = Cancellation(gives_way=urgent.is_set)

    def run() -> None:
        try:
            process.build(order("wait_for_ever", started=str(tmp_path / "pid")), cancellation)
        except BuildCancelledError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    builder = int(wait_for_file(tmp_path / "pid"))
    assert thread.is_alive()
    if reason == "cancelled":
        process.cancel(cancellation)
    else:
        urgent.set()
    thread.join(PATIENCE)
    assert raised and ended(builder)
    with pytest.raises(BuildCancelledError):
        process.build(order("echo"), cancellation)
    assert build(process, "echo", text="others go on") == b"others go on"


def test_what_a_build_that_was_left_would_have_given_is_not_taken_for_the_next_ones(process, monkeypatch):
    class Interrupted:
        def __call__(self) -> bool:
            raise KeyboardInterrupt

    monkeypatch.setattr(build_process, "POLLED_EVERY_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        process.build(order("echo", {"first": bytes(1 << 20)}), Cancellation(gives_way=Interrupted()))
    assert build(process, "echo", text="the next") == b"the next"


def test_a_compiler_that_hangs_is_a_failed_build_and_the_next_one_works(process, tmp_path, monkeypatch):
    monkeypatch.setattr(build_process, "LONGEST_BUILD_S", 0.5)
    for cancellation in (Cancellation(), Cancellation(gives_way=lambda: False)):
        with pytest.raises(BackendError, match=r"did not end within 0\.5 s; it hangs"):
            process.build(order("sleep_for_ever"), cancellation)
    monkeypatch.setattr(build_process, "LONGEST_BUILD_S", PATIENCE)
    assert build(process, "echo", text="on") == b"on"


def test_the_number_of_a_server_that_is_gone_is_never_signalled(process, tmp_path, monkeypatch):
    cancellation = Cancellation()

    def run() -> None:
        with pytest.raises(BuildCancelledError):
            process.build(order("wait_for_ever", started=str(tmp_path / "pid")), cancellation)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for_file(tmp_path / "pid")
    process.cancel(cancellation)
    thread.join(PATIENCE)
    signalled = []
    monkeypatch.setattr(os, "killpg", lambda group, number: signalled.append(group))
    assert build(process, "echo", text="on") == b"on"
    monkeypatch.undo()
    assert not signalled


def test_when_its_owner_is_killed_a_build_ends_too(tmp_path):
    program = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from rain_removal_ros.runtime import build_process as b
b.PRELOADED = ()
b.SHARED.build(b.BuildOrder("build_fixtures:wait_for_ever", {{}}, {{"started": {str(tmp_path / "pid")!r}}}),
               b.Cancellation())
"""
    with subprocess.Popen([sys.executable, "-c", program]) as owner:
        builder = int(wait_for_file(tmp_path / "pid"))
        owner.kill()
    assert ended(builder)


@pytest.mark.parametrize("preloaded", [(), ("server_without_prctl",)])
def test_when_its_server_is_killed_a_build_ends_too_and_the_next_one_works(
    process, tmp_path, monkeypatch, preloaded
):
    monkeypatch.setattr(build_process, "PRELOADED", preloaded)
    raised = []

    def run() -> None:
        try:
            build(process, "wait_for_ever", started=str(tmp_path / "pid"))
        except BackendError as error:
            raised.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    builder = int(wait_for_file(tmp_path / "pid"))
    os.kill(process._server.pid, signal.SIGKILL)  # it alone, as the kernel does where memory is short
    try:
        assert ended(builder)
    finally:
        with suppress(ProcessLookupError):
            os.kill(builder, signal.SIGKILL)
    thread.join(PATIENCE)
    assert "died (SIGKILL); is there enough memory" in raised[0]
    assert build(process, "echo", text="on") == b"on"


def test_a_build_whose_server_has_ended_before_it_could_watch_ends_at_once():
    program = "from rain_removal_ros.runtime.build_server import end_with; end_with({}); print('on')"
    for parent, status in ((os.getpid(), 0), (1, -signal.SIGKILL)):
        done = subprocess.run([sys.executable, "-c", program.format(parent)], timeout=PATIENCE)
        assert done.returncode == status


def test_a_process_that_cannot_be_started_is_a_failed_build(process, monkeypatch):
    monkeypatch.setattr(build_process.sys, "executable", "/nowhere/python")
    with pytest.raises(BackendError, match="cannot be started"):
        build(process, "echo")
