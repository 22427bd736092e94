"""Many bags, on the processes of one machine and on the machines of a Ray cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bag_fixtures import START, Sent, drive, image, record, text
from pipeline_fakes import FakeRestorer
from ruamel.yaml import YAML

from rain_removal_ros.bags.archive import DONE, FAILED, THERE, do, run_here, run_on_ray, table
from rain_removal_ros.bags.convert import Options
from rain_removal_ros.bags.jobs import find_jobs
from rain_removal_ros.bags.storage import Bag
from rain_removal_ros.commands.main import main
from rain_removal_ros.errors import BagError
from rain_removal_ros.runtime import RuntimeSettings

SETTINGS = RuntimeSettings(backend="openvino")
DEADLY_WIDTH = 98


def make_fake(settings: RuntimeSettings) -> FakeRestorer:
    return FakeRestorer()


class Deadly(FakeRestorer):
    """Ends its process at an image of that width, as the kernel does when memory is short."""

    def __call__(self, image, outputs, focal_px=None, **options):
        if image.shape[1] == DEADLY_WIDTH:
            os._exit(9)
        return super().__call__(image, outputs, focal_px, **options)


def make_deadly(settings: RuntimeSettings) -> FakeRestorer:
    return Deadly()


def archive(folder: Path, sizes: tuple[int, ...] = (2, 3)) -> Path:
    """A folder of drives, two folders deep, and of one bag without a camera."""
    for number, frames in enumerate(sizes):
        storage = ("mcap", "sqlite3")[number % 2]
        record(folder / f"day{number % 2}" / f"drive{number}", drive(frames), storage)
    record(folder / "talk", [Sent("/map", "std_msgs/msg/String", START, text("no camera"))])
    return folder


def frames_of(path: Path) -> int:
    with Bag(path) as bag:
        return sum(1 for record in bag.messages() if record.topic.name == "/front/derained/image")


def states_of(outcomes) -> dict[str, tuple[str, int]]:
    return {outcome.job.target.name: (outcome.state, outcome.frames) for outcome in outcomes}


def test_bags_are_found_in_folders_lists_and_files(tmp_path):
    folder = archive(tmp_path / "in")
    loose = record(tmp_path / "loose", drive(1)) / "loose.mcap"
    (tmp_path / "list.txt").write_text("# the best ones\nloose/loose.mcap\n\nin/day0/drive0\n")
    out = tmp_path / "out"

    def targets(*inputs: Path) -> list[str]:
        return sorted(str(job.target.relative_to(out)) for job in find_jobs(inputs, out))

    assert targets(folder) == targets(folder, folder) == ["day0/drive0", "day1/drive1", "talk"]
    assert targets(folder / "talk", loose) == ["loose", "talk"]
    assert targets(tmp_path / "list.txt") == ["drive0", "loose"]
    (folder / "empty").mkdir()
    for wrong, said in ((folder / "empty", "holds no bags"), (tmp_path / "nowhere", "does not exist")):
        with pytest.raises(BagError, match=said):
            find_jobs([wrong], out)
    record(tmp_path / "other/talk", drive(1))
    with pytest.raises(BagError, match="would both become"):
        find_jobs([folder / "talk", tmp_path / "other/talk"], out)


def names_of(jobs, out: Path) -> list[str]:
    return [str(job.target.relative_to(out.absolute())) for job in jobs]


def loose_file(path: Path, frames: int = 1) -> Path:
    """A storage file without the folder it was recorded into."""
    path.parent.mkdir(parents=True, exist_ok=True)
    recorded = record(path.parent / "recorded", drive(frames))
    (recorded / "recorded.mcap").rename(path)
    (recorded / "metadata.yaml").unlink()
    recorded.rmdir()
    return path


def test_loose_files_of_several_recordings_are_several_bags_and_hide_none_below_them(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    loose_file(folder / "a.mcap", 1)
    loose_file(folder / "b.mcap", 2)
    record(folder / "sub", drive(3))
    jobs = find_jobs([folder], out)
    assert names_of(jobs, out) == ["a", "b", "sub"]
    outcomes = run_here(jobs, Options(), SETTINGS, print, processes=1, make_restorer=make_fake)
    assert states_of(outcomes) == {"a": (DONE, 1), "b": (DONE, 2), "sub": (DONE, 3)}
    (folder / "b.mcap").unlink()
    assert names_of(find_jobs([folder], out), out) == ["a", "sub"]


def test_the_parts_of_one_recording_without_its_metadata_are_one_bag(tmp_path):
    for number in (0, 1, 10):
        loose_file(tmp_path / f"in/day/drive_{number}.mcap")
    loose_file(tmp_path / "in/single/killed.mcap")
    for name in ("left_0", "left_1", "right_0"):
        loose_file(tmp_path / f"in/two/{name}.mcap")
    jobs = find_jobs([tmp_path / "in"], tmp_path / "out")
    assert names_of(jobs, tmp_path / "out") == ["day", "single", "two/left_0", "two/left_1", "two/right_0"]
    (job,) = find_jobs([tmp_path / "in/day"], tmp_path / "in/day/out")
    (outcome,) = run_here([job], Options(), SETTINGS, print, processes=1, make_restorer=make_fake)
    assert outcome.frames == 3
    (again,) = find_jobs([tmp_path / "in/day"], tmp_path / "in/day/out")  # what is done is not searched
    assert again == job


def test_a_new_bag_is_never_named_as_a_file(tmp_path):
    packed = loose_file(tmp_path / "in/packed.mcap").rename(tmp_path / "in/packed.mcap.zstd")
    folder = record(tmp_path / "drives/drive.mcap", drive(1))
    (tmp_path / "list.txt").write_text(f"{packed}\n{folder}\n")
    out = tmp_path / "out"
    assert names_of(find_jobs([packed, folder], out), out) == ["packed", "drive"]
    assert names_of(find_jobs([tmp_path / "list.txt"], out), out) == ["packed", "drive"]
    assert names_of(find_jobs([tmp_path / "drives"], out), out) == ["drive"]
    (job,) = find_jobs([tmp_path / "drives"], out)
    (outcome,) = run_here([job], Options(), SETTINGS, print, processes=1, make_restorer=make_fake)
    assert (outcome.state, outcome.frames) == (DONE, 1)


@pytest.mark.parametrize("loop", ["in/loop", "disk/loop"])
def test_what_is_linked_to_is_done_once(tmp_path, loop):
    folder, disk, out = tmp_path / "in", tmp_path / "disk", tmp_path / "out"
    record(folder / "d1", drive(1))
    record(disk / "d2", drive(1))
    part = loose_file(folder / "day/drive_0.mcap")
    (folder / "a_latest").symlink_to(folder / "d1")
    (folder / "day/latest.mcap").symlink_to(part)
    (folder / "linked").symlink_to(disk)
    (tmp_path / loop).symlink_to(folder)
    (folder / "itself").symlink_to(folder / "itself")
    assert names_of(find_jobs([folder], out), out) == ["d1", "day", "linked/d2"]


def test_a_file_that_is_no_bag_is_refused_with_a_word(tmp_path):
    (tmp_path / "notes.md").write_text("no bag")
    with pytest.raises(BagError, match=r"notes.md is no bag; give bags"):
        find_jobs([tmp_path / "notes.md"], tmp_path / "out")


def test_what_cannot_be_looked_at_is_not_said_to_be_missing(tmp_path):
    endless = tmp_path / ("a" * 300)
    with pytest.raises(OSError, match="File name too long"):
        find_jobs([endless], tmp_path / "out")
    with pytest.raises(OSError, match="File name too long"):
        Bag(endless)


def test_a_new_bag_never_lies_in_another(tmp_path):
    loose_file(tmp_path / "in/day1.mcap")
    record(tmp_path / "in/day1/b", drive(1))
    with pytest.raises(BagError, match=r"day1/b would .*out/day1/b, inside of what .*day1\.mcap becomes"):
        find_jobs([tmp_path / "in"], tmp_path / "out")


def test_a_list_may_come_from_windows_and_hold_names_of_any_bytes(tmp_path):
    bag, out = record(tmp_path / os.fsdecode(b"m\xfcnchen"), drive(1)), tmp_path / "out"
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfm\xfcnchen\r\n")
    (job,) = find_jobs([tmp_path / "list.txt"], out)
    assert job.source == bag
    outcome = do(job, Options(), FakeRestorer())
    assert outcome.state == FAILED and r"'m\udcfcnchen' is no text in UTF-8" in outcome.reason


def test_one_failed_bag_does_not_stop_the_others_and_a_second_run_does_what_is_left(tmp_path):
    folder, out, told = archive(tmp_path / "in"), tmp_path / "out", []

    def run(processes: int):
        jobs = find_jobs([folder], out)
        return run_here(jobs, Options(), SETTINGS, told.append, processes=processes, make_restorer=make_fake)

    outcomes = run(2)
    assert states_of(outcomes) == {"drive0": (DONE, 2), "drive1": (DONE, 3), "talk": (FAILED, 0)}
    assert told == outcomes
    assert frames_of(out / "day0/drive0") == 2 and not (out / "talk").exists()
    lines = table(outcomes)
    assert "no camera images" in lines[-2] and lines[-1] == "2 done, 0 there already, 1 failed; 5 frames"

    record(folder / "late", drive(4))
    before = (out / "day0/drive0/drive0.mcap").stat().st_mtime_ns
    again = states_of(run(1))
    assert again == {"drive0": (THERE, 2), "drive1": (THERE, 3), "late": (DONE, 4), "talk": (FAILED, 0)}
    assert (out / "day0/drive0/drive0.mcap").stat().st_mtime_ns == before


def test_a_bag_that_kills_its_process_fails_alone(tmp_path):
    folder = tmp_path / "in"
    for name in ("a", "z"):
        record(folder / name, drive(2))
    deadly = image(0, width=DEADLY_WIDTH)
    record(folder / "deadly", [Sent("/c/image_raw", "sensor_msgs/msg/Image", START, deadly)])
    jobs = find_jobs([folder], tmp_path / "out")
    outcomes = run_here(jobs, Options(), SETTINGS, print, processes=1, make_restorer=make_deadly)
    assert states_of(outcomes) == {"a": (DONE, 2), "deadly": (FAILED, 0), "z": (DONE, 2)}
    assert "its process was killed" in " ".join(table(outcomes))


class Slow(FakeRestorer):
    """Takes longer than anybody waits."""

    def __call__(self, image, outputs, focal_px=None, **options):
        time.sleep(0.2)
        return super().__call__(image, outputs, focal_px, **options)


def make_slow(settings: RuntimeSettings) -> FakeRestorer:
    return Slow()


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return bool(condition())


def begun(out: Path) -> list[Path]:
    """What is written in the folder at this moment."""
    return list(out.glob(".*.partial/*/*.mcap"))


def start_slow_run(source: Path, out: Path, program: str) -> subprocess.Popen[str]:
    """A process of its own, for a test that ends it: it runs this program, where `slow_run()` takes long."""
    script = source.parent / "program.py"
    script.write_text(
        "import signal, sys; from multiprocessing import active_children; from pathlib import Path\n"
        "import pytest; from test_archive import *\n"
        "def slow_run():\n"
        "    jobs = find_jobs([Path(sys.argv[1])], Path(sys.argv[2]))\n"
        "    return run_here(jobs, Options(), SETTINGS, print, processes=1, make_restorer=make_slow)\n"
        "if __name__ == '__main__':\n" + textwrap.indent(program, "    ")
    )
    folders = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).parent)]
    return subprocess.Popen(
        [sys.executable, script, source, out],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_an_interrupted_run_ends_its_workers_and_leaves_nothing(tmp_path):
    source, out = record(tmp_path / "in/drive", drive(100)).parent, tmp_path / "out"
    record(source / "other", drive(100))
    process = start_slow_run(
        source,
        out,
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run behind `&`\n"
        "with pytest.raises(KeyboardInterrupt):\n"
        "    slow_run()\n"
        "print('interrupted', len(list(Path(sys.argv[2]).iterdir())), len(active_children()))",
    )
    try:
        assert wait_for(lambda: begun(out))
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert said.splitlines()[-1] == "interrupted 0 0"


def test_workers_end_with_the_process_that_started_them(tmp_path):
    record(tmp_path / "in", drive(100))
    process = start_slow_run(tmp_path / "in", tmp_path / "out", "slow_run()")
    try:
        assert wait_for(lambda: begun(tmp_path / "out"))
    finally:
        process.kill()
        process.wait()
    assert wait_for(lambda: not list((tmp_path / "out").iterdir()), 20.0)


def test_a_bag_that_lacks_something_is_told_in_every_run(tmp_path, capsys, monkeypatch):
    sent = drive(6)
    next(each for each in sent if each.topic == "/front/image_raw").data = b"no image"
    unread = record(tmp_path / "in/unread", sent)
    metadata = record(tmp_path / "in/half", drive(3)) / "metadata.yaml"
    content = YAML(typ="safe").load(metadata.read_text())
    content["rosbag2_bagfile_information"]["relative_file_paths"].append("half_1.mcap")
    with metadata.open("w") as file:
        YAML(typ="safe").dump(content, file)

    def here(jobs, options, settings, on_outcome, *, processes):
        return run_here(jobs, options, settings, on_outcome, processes=processes, make_restorer=make_fake)

    monkeypatch.setattr("rain_removal_ros.bags.archive.run_here", here)
    command = ["archive", str(unread.parent), str(tmp_path / "out"), "--processes", "1", "--outputs", "image"]
    for states in ("2 done, 0 there already", "0 done, 2 there already"):
        assert main(command) == 1
        *rows, last = capsys.readouterr().out.splitlines()
        assert last.startswith(f"{states}, 0 failed;")
        assert last.endswith("frames; 2 of the bags lack what the table says")
        assert any("1 images could not be read" in row for row in rows)
        assert any("half_1.mcap: metadata.yaml names this file, but it is missing" in row for row in rows)


def test_a_bag_of_another_origin_in_the_place_of_a_new_one_is_left_alone(tmp_path):
    jobs = find_jobs([record(tmp_path / "in/drive", drive(1))], tmp_path / "out")
    taken = record(tmp_path / "out/drive", drive(2))
    size = (taken / "drive.mcap").stat().st_size
    (outcome,) = run_here(jobs, Options(), SETTINGS, print, make_restorer=make_fake)
    assert outcome.state == FAILED and "was not made by derain" in outcome.reason
    assert (taken / "drive.mcap").stat().st_size == size


def test_the_command_ends_with_a_table_and_a_status(tmp_path, capsys, monkeypatch):
    folder = archive(tmp_path / "in")

    def here(jobs, options, settings, on_outcome, *, processes):
        return run_here(jobs, options, settings, on_outcome, processes=processes, make_restorer=make_fake)

    monkeypatch.setattr("rain_removal_ros.bags.archive.run_here", here)
    command = ["archive", str(folder), str(tmp_path / "out"), "--processes", "1", "--outputs", "image"]
    assert main(command) == 1
    said = capsys.readouterr()
    assert "2 done, 0 there already, 1 failed; 5 frames" in said.out and "3/3" in said.err
    (folder / "talk/talk.mcap").unlink()
    (folder / "talk/metadata.yaml").unlink()
    assert main(command) == 0
    assert "0 done, 2 there already, 0 failed" in capsys.readouterr().out


@pytest.fixture
def cluster(monkeypatch):
    """Two machines of a Ray cluster, as far as Ray can tell."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    folders = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).parent), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))  # the workers are started with it
    import ray
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "object_store_memory": 80 << 20}
    running = Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
    running.add_node(**machine)
    yield running.address
    ray.shutdown()
    running.shutdown()


def test_the_machines_of_a_ray_cluster_share_the_bags(tmp_path, cluster):
    folder, out, told = archive(tmp_path / "in"), tmp_path / "out", []

    def run():
        jobs = find_jobs([folder], out)
        return run_on_ray(
            jobs, Options(), SETTINGS, told.append, address=cluster, cores=1, make_restorer=make_fake
        )

    outcomes = run()
    assert states_of(outcomes) == {
        "drive0": (DONE, 2),
        "drive1": (DONE, 3),
        "talk": (FAILED, 0),
    }
    assert len(told) == len(outcomes)
    assert len({outcome.where for outcome in outcomes if outcome.state == DONE}) == 2  # a process each
    assert frames_of(out / "day1/drive1") == 3
    assert {outcome.state for outcome in run()} == {THERE, FAILED}
