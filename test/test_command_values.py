"""Numbers on the command line that cannot be, and what the system refuses: each is told with what helps."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from modules import skip_without_the_modules_of

from rain_removal_ros.commands import image
from rain_removal_ros.commands.main import main
from rain_removal_ros.commands.values import image_size, positive, whole_number

pytestmark = pytest.mark.usefixtures("as_in_a_terminal")

REFUSED = {
    "image in.png out.png --threads -1": "-1 is too small; give 0 or more",
    "image in.png out.png --device one": "'one' is not a whole number",
    "video in.mp4 out.mp4 --focal-px 0": "0 is not possible; give a number above 0",
    "video in.mp4 out.mp4 --focal-px nan": "nan is not possible; give a number above 0",
    "build 1280x-720": "is no size",
    "build 16x16": "is too small or too large",
    "benchmark --frames 0": "0 is too small; give 1 or more",
    "benchmark --load 1 0": "0 is too small; give 1 or more",
    "benchmark --node-rate inf": "inf is not possible",
    "archive in out --processes -2": "-2 is too small; give 0 or more",
    "evaluate --output out --workers 0": "0 is too small; give 1 or more",
    "evaluate --output out --limit 1.5": "'1.5' is not a whole number",
    "train --data in --output out --steps 0": "0 is too small; give 1 or more",
    "train --data in --output out --checkpoint-every 0": "0 is too small; give 1 or more",
    "train --data in --output out --minutes soon": "'soon' is not a number",
    "train --data in --output out --seed -1": "-1 is too small; give 0 or more",
    "compare a b --max-drops -1": "-1 is too small; give 0 or more",
    "demo --rate 0": "0 is not possible; give a number above 0",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_a_number_that_cannot_be_is_wrong_usage_and_says_what_can_be(
    arguments, capsys, tmp_path, monkeypatch
):
    skip_without_the_modules_of(arguments.split()[0])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    assert REFUSED[arguments] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_can_be_is_taken():
    assert image_size("1280x720") == (720, 1280)
    assert whole_number(0)("0") == 0 and whole_number(1)("12") == 12
    assert positive("0.5") == 0.5


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        (errno.ENOSPC, "free space there or choose another place"),
        (errno.EACCES, "change the permissions or choose another place"),
        (errno.EROFS, "choose another place"),
        (errno.EIO, "try again, or look after the disk"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
    ],
)
def test_what_the_system_refuses_is_told_with_what_helps_against_it(reason, remedy, capsys, monkeypatch):
    def refuse(arguments):
        raise OSError(reason, os.strerror(reason), "out.png")

    monkeypatch.setattr(image, "run", refuse)
    assert main(["image", "in.png", "out.png"]) == 1
    assert capsys.readouterr().err.endswith(f"{os.strerror(reason)}: 'out.png'; {remedy}\n")


def test_any_other_word_of_the_system_is_one_line(capsys, monkeypatch):
    def refuse(arguments):
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    monkeypatch.setattr(image, "run", refuse)
    assert main(["image", "in.png", "out.png"]) == 1
    assert (
        capsys.readouterr().err == f"derain image: [Errno {errno.ENOTCONN}] {os.strerror(errno.ENOTCONN)}\n"
    )


def run_signalled(body: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """A process of its own, whose subcommand does this: a signal that goes wrong ends none of the tests'."""
    program = (
        "import os, signal, sys; from rain_removal_ros.commands import image; "
        "from rain_removal_ros.commands.main import main\n"
        f"{before}\n"
        f"def run(arguments):\n{textwrap.indent(body, '    ')}\n"
        "image.run = run\n"
        "sys.exit(main(['image', 'in.png', 'out.png']))"
    )
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_a_subcommand_as_ctrl_c_does(number, status):
    ended = run_signalled(
        f"try:\n    os.kill(os.getpid(), {number:d}); signal.pause()\nfinally:\n    print('unwound')"
    )
    assert (ended.returncode, ended.stdout) == (status, "unwound\n"), ended.stderr


def test_a_signal_that_is_ignored_stays_so():
    ended = run_signalled(
        "os.kill(os.getpid(), signal.SIGHUP)\nprint(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)",
        before="signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup",
    )
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr


def test_a_name_that_is_no_text_does_not_cost_what_is_printed(tmp_path):
    program = (
        "import sys; from rain_removal_ros.commands import image, main\n"
        "image.run = lambda arguments: print(arguments.output) or 0\n"
        "sys.exit(main.main(['image', 'in.png', sys.argv[1]]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, b"m\xfcnchen.png"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (0, rb"m\udcfcnchen.png" + b"\n"), ended.stderr
