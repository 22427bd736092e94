"""The engine cache: found again only by the same key; nothing that happens to its folder reaches a frame."""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import subprocess
import sys

import pytest

from rain_removal_ros import locks
from rain_removal_ros.errors import RainRemovalError
from rain_removal_ros.runtime import cache as cache_module
from rain_removal_ros.runtime.cache import EngineCache, EngineKey, default_folder

FIELDS = {
    "backend": "tensorrt",
    "weights_sha256": "a" * 64,
    "preset": "fast",
    "size": "1024x512",
    "precision": "fp16",
    "outputs": "image+inverse_depth",
    "torch": "2.11.0",
    "torch_tensorrt": "2.11.0",
    "tensorrt": "tensorrt 10.15.1",
    "cuda": "13.0",
    "device": "NVIDIA Something",
    "compute_capability": "8.7",
}
KEY = EngineKey(FIELDS)


def other(field: str) -> EngineKey:
    return EngineKey(FIELDS | {field: FIELDS[field] + "0"})


@pytest.fixture
def said():
    return []


@pytest.fixture
def cache(tmp_path, said):
    return EngineCache(tmp_path / "cache", 1 << 20, said.append)


def keep(cache, key=KEY, content=b"plan"):
    return cache.store(key, lambda path: path.write_bytes(content))


def test_what_is_stored_is_found_by_the_same_key_in_a_new_cache(cache, said):
    keep(cache)
    again = EngineCache(cache.folder, 1 << 20, said.append)
    assert again.find(EngineKey(dict(reversed(FIELDS.items())))).read_bytes() == b"plan"
    assert said == []


@pytest.mark.parametrize("field", FIELDS)
def test_any_other_field_is_another_engine(cache, said, field):
    keep(cache)
    assert cache.find(other(field)) is None
    assert said == []


def test_the_description_beside_the_engine_holds_the_whole_key(cache):
    blob = keep(cache)
    content = json.loads(blob.with_suffix(".json").read_text())
    assert content["key"] == FIELDS
    assert content["bytes"] == 4
    assert blob.name.startswith("tensorrt-fast-1024x512-fp16-")


def truncate(blob, description):
    blob.write_bytes(b"pl")


def flip(blob, description):
    blob.write_bytes(b"plaN")


def tear_description(blob, description):
    description.write_text(description.read_text()[:40])


def lose_description(blob, description):
    description.unlink()


def lose_blob(blob, description):
    blob.unlink()


def take_another_description(blob, description):
    content = json.loads(description.read_text())
    content["key"]["device"] = "another GPU"
    description.write_text(json.dumps(content))


def write_another_format(blob, description):
    content = json.loads(description.read_text())
    description.write_text(json.dumps(content | {"format": 0}))


def write_a_foreign_description(blob, description):
    content = json.loads(description.read_text())
    description.write_text(json.dumps(content | {"key": "of something else"}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (write_a_foreign_description, "cannot be read"),
        (truncate, "2 bytes instead of 4"),
        (flip, "checksum is wrong"),
        (tear_description, "cannot be read"),
        (lose_description, "no description"),
        (lose_blob, "stands without it"),
        (take_another_description, "belongs to another engine"),
        (write_another_format, "format 0"),
    ],
)
def test_a_damaged_or_foreign_entry_is_reported_once_and_removed(cache, said, damage, reason):
    blob = keep(cache)
    damage(blob, blob.with_suffix(".json"))
    assert reason in cache.verify()[blob.stem]
    assert cache.find(KEY) is None
    assert len(said) == 1
    assert reason in said[0]
    assert cache.find(KEY) is None
    assert len(said) == 1
    keep(cache)
    assert cache.find(KEY).read_bytes() == b"plan"


def test_an_engine_of_another_user_is_not_trusted(cache, said, monkeypatch):
    keep(cache)
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 4242)
    stat = type(cache.folder).stat

    class Foreign:
        def __init__(self, real):
            self._real = real

        def __getattr__(self, name):
            return owner + 1 if name == "st_uid" else getattr(self._real, name)

    monkeypatch.setattr(type(cache.folder), "stat", lambda path, **options: Foreign(stat(path, **options)))
    assert "another user" in cache.verify()[KEY.name]


def test_an_engine_that_cannot_be_read_is_built_again(cache, said, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    keep(cache)
    monkeypatch.setattr("rain_removal_ros.runtime.cache.sha256_of", refuse)
    assert cache.find(KEY) is None
    assert "Permission denied" in said[0]


def test_a_folder_that_cannot_be_searched_holds_nothing(cache, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(cache.folder), "stat", refuse)
    assert cache.find(KEY) is None


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_all_may_read_the_engines_and_only_their_owner_write_them_whatever_the_umask(cache, umask):
    before = os.umask(umask)
    try:
        keep(cache)
    finally:
        os.umask(before)
    assert cache.folder.stat().st_mode & 0o777 == 0o755
    files = [path for path in cache.folder.iterdir() if not path.name.startswith(".")]
    assert len(files) == 2 and all(path.stat().st_mode & 0o777 == 0o644 for path in files)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_folder_that_others_may_write_is_not_trusted(cache, said, mode):
    keep(cache)
    cache.folder.chmod(mode)
    assert cache.find(KEY) is None and cache.find(KEY) is None
    assert cache.store(KEY, lambda path: path.write_bytes(b"x")) is None
    assert len(said) == 1 and "can be written by others" in said[0]
    cache.folder.chmod(0o755)
    assert cache.find(KEY) is not None


def test_an_engine_that_others_may_write_is_not_trusted(cache, said):
    keep(cache)
    cache._blob(KEY.name).chmod(0o666)
    assert cache.find(KEY) is None and "can be written by others" in said[0]


def test_a_user_without_a_home_has_a_folder_of_their_own(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cache_module.Path, "home", no_home)
    assert str(os.getuid()) in default_folder().name


def test_an_unwritable_folder_warns_once_and_stores_nothing(tmp_path, said):
    (tmp_path / "file").write_text("in the way")
    cache = EngineCache(tmp_path / "file" / "cache", 1 << 20, said.append)
    for key in (KEY, other("size")):
        with cache.building(key):
            assert cache.find(key) is None
            assert keep(cache, key) is None
    assert len(said) == 1
    assert "cannot be written" in said[0]
    assert "cache_dir" in said[0]


def test_a_builder_that_fails_leaves_nothing_behind(cache):
    def write_half(path):
        path.write_bytes(b"pl")
        raise RuntimeError("the compiler died")

    with pytest.raises(RuntimeError, match="the compiler died"):
        cache.store(KEY, write_half)
    assert cache.find(KEY) is None
    assert list(cache.folder.iterdir()) == []


def test_the_engine_unused_for_longest_gives_way(tmp_path):
    cache = EngineCache(tmp_path, limit_bytes=25)
    keys = [EngineKey(FIELDS | {"size": f"{number}x64"}) for number in range(3)]
    for age, key in enumerate(keys[:2]):
        blob = keep(cache, key, b"0123456789")
        os.utime(blob.with_suffix(".json"), (1000 + age, 1000 + age))
    cache.find(keys[0])  # used again: now the other is the oldest
    keep(cache, keys[2], b"0123456789")
    assert {entry.fields["size"] for entry in cache.entries()} == {"0x64", "2x64"}


def test_an_engine_larger_than_the_limit_is_kept_alone(tmp_path):
    cache = EngineCache(tmp_path, limit_bytes=5)
    keep(cache, other("size"), b"0123456789")
    keep(cache, KEY, b"0123456789")
    assert [entry.name for entry in cache.entries()] == [KEY.name]


def test_clear_removes_everything(cache):
    for key in (KEY, other("size")):
        with cache.building(key):
            keep(cache, key)
    assert cache.clear() == 2
    assert list(cache.folder.iterdir()) == []


def leave_half_an_engine(cache, name):
    """What a builder that is killed while it writes leaves behind."""
    partial = cache.folder / f".partial-{name}"
    partial.mkdir(parents=True)
    (partial / "half.engine").write_bytes(b"pl")
    return partial


def test_clear_removes_what_killed_builders_left(cache):
    keep(cache)
    leave_half_an_engine(cache, "killed")
    assert cache.clear() == 1
    assert list(cache.folder.iterdir()) == []


def test_what_killed_builders_left_goes_after_a_day(cache):
    old, young = leave_half_an_engine(cache, "old"), leave_half_an_engine(cache, "young")
    os.utime(old, (1000, 1000))
    keep(cache)
    assert not old.exists() and young.exists()
    assert cache.find(KEY)


def test_a_folder_that_cannot_be_written_is_not_cleared_and_says_so(cache, monkeypatch):
    def refuse(path, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    keep(cache)
    monkeypatch.setattr(type(cache.folder), "unlink", refuse)
    with pytest.raises(RainRemovalError, match=r"cannot be cleared .*Read-only file system"):
        cache.clear()
    assert cache.verify() == {KEY.name: None}


def test_the_folder_follows_the_xdg_convention(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "rain_removal_ros"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder().parts[-2:] == (".cache", "rain_removal_ros")


def build_if_missing(folder, barrier, results):
    cache = EngineCache(folder, 1 << 20)
    barrier.wait()
    with cache.building(KEY):
        found = cache.find(KEY)
        if found is None:
            keep(cache, KEY, os.urandom(1 << 16))
        results.put((found is None, cache.find(KEY).read_bytes()))


def test_of_processes_that_want_one_engine_at_once_only_one_builds(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=build_if_missing, args=(tmp_path, barrier, results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(30)
    assert sorted(built for built, _ in outcomes) == [False, False, True]
    assert len({content for _, content in outcomes}) == 1
    assert EngineCache(tmp_path, 1 << 20).verify() == {KEY.name: None}


def test_waiting_for_another_builder_can_be_given_up(tmp_path):
    asked = itertools.count()
    one, other = EngineCache(tmp_path, 1 << 20), EngineCache(tmp_path, 1 << 20)
    with one.building(KEY) as first, other.building(KEY, lambda: next(asked) == 2) as second:
        assert first and not second
    with EngineCache(tmp_path, 1 << 20).building(KEY) as third:
        assert third


def locks_in(folder):
    return {path.name for path in folder.glob(".*.lock")}


def test_the_locks_of_engines_that_gave_way_go_with_them_unless_they_are_held(tmp_path):
    cache = EngineCache(tmp_path, limit_bytes=25)
    keys = [EngineKey(FIELDS | {"size": f"{number}x64"}) for number in range(4)]
    for age, key in enumerate(keys[:2]):
        with cache.building(key):
            os.utime(keep(cache, key, b"0123456789").with_suffix(".json"), (1000 + age, 1000 + age))
    with EngineCache(tmp_path, 25).building(keys[0]):  # another process is about to build it again
        for key in keys[2:]:
            with cache.building(key):
                keep(cache, key, b"0123456789")
        assert {entry.name for entry in cache.entries()} == {key.name for key in keys[2:]}
        assert locks_in(tmp_path) == {f".{keys[number].name}.lock" for number in (0, 2, 3)}
    with cache.building(keys[3]):
        keep(cache, keys[3], b"0123456789")
    assert locks_in(tmp_path) == {f".{key.name}.lock" for key in keys[2:]}


def test_a_lock_that_is_removed_before_it_is_taken_is_made_anew(cache, monkeypatch):
    def remove_first(handle):
        monkeypatch.setattr(cache_module, "take_lock", locks.take_lock)
        cache._remove_spare_locks()
        assert locks_in(cache.folder) == set()
        return locks.take_lock(handle)

    monkeypatch.setattr(cache_module, "take_lock", remove_first)
    with cache.building(KEY) as first, cache.building(KEY, lambda: True) as second:
        assert first and not second
        assert locks_in(cache.folder) == {f".{KEY.name}.lock"}


def test_a_new_lock_that_took_the_place_of_a_spare_one_is_not_removed_for_it(cache, monkeypatch):
    def replace_first(handle):
        monkeypatch.setattr(cache_module, "take_lock", locks.take_lock)
        cache._lock(KEY.name).unlink()
        cache._lock(KEY.name).touch()  # by a process that is about to build
        return locks.take_lock(handle)

    with cache.building(KEY):
        pass
    monkeypatch.setattr(cache_module, "take_lock", replace_first)
    cache._remove_spare_locks()
    assert locks_in(cache.folder) == {f".{KEY.name}.lock"}
    cache._remove_spare_locks()
    assert locks_in(cache.folder) == set()


def test_a_file_system_that_counts_no_names_of_files_still_has_its_engines_built(cache, monkeypatch):
    monkeypatch.setattr(os, "fstat", lambda handle: os.stat_result([0] * 10))
    with cache.building(KEY) as ours:
        assert ours


def build_again_and_again(folder, barrier, results):
    cache, marker = EngineCache(folder, 1 << 20), folder / "marker"
    barrier.wait()
    together = 0
    for _ in range(200):
        with cache.building(KEY, lambda: False):
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                together += 1
            else:
                marker.unlink()
        cache._remove_spare_locks()
    results.put(together)


def test_processes_that_remove_locks_never_build_one_engine_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "POLLED_EVERY_S", 0.0)
    monkeypatch.setattr(cache_module, "LOCK_ATTEMPTS", 10_000)  # locks vanish far more often than in a cache
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=build_again_and_again, args=(tmp_path, barrier, results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
    assert outcomes == [0, 0, 0]
    assert locks_in(tmp_path) == set()


def hold_and_die(folder, held):
    with EngineCache(folder, 1 << 20).building(KEY):
        held.set()
        os._exit(1)


def test_a_builder_that_dies_lets_the_next_one_build(tmp_path):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold_and_die, args=(tmp_path, held))
    process.start()
    assert held.wait(30)
    process.join(30)
    with EngineCache(tmp_path, 1 << 20).building(KEY):
        assert keep(EngineCache(tmp_path, 1 << 20))


def test_on_a_file_system_without_locks_engines_are_built_and_kept_all_the_same(cache, monkeypatch):
    def refuse(handle, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with cache.building(KEY):
        keep(cache)
    with cache.building(KEY):
        assert cache.find(KEY)


def test_who_only_looks_into_the_cache_loads_no_torch():
    program = "import sys; import rain_removal_ros.runtime.cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
