"""An inference that hangs, fails or gives what cannot be: what is published meanwhile, how it recovers."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from pipeline_fakes import FakeHandler, FakeRestorer, wait_until_watched
from waiting import PATIENCE, eventually

from rain_removal_ros.errors import InferenceError, NotPreparedError
from rain_removal_ros.frame_statistics import Way
from rain_removal_ros.pipeline import OnFailure, Options, Pipeline, Problem, failures
from rain_removal_ros.pipeline import stand_in as stand_in_module
from rain_removal_ros.pipeline import watchdog as watchdog_module
from rain_removal_ros.pipeline.batches import Batches
from rain_removal_ros.pipeline.builds import Builds
from rain_removal_ros.pipeline.failures import MAX_HANGING, MAX_NOT_REMADE
from rain_removal_ros.pipeline.recovery import FAILURES_IN_A_ROW, Recovery
from rain_removal_ros.pipeline.stand_in import StandIn
from rain_removal_ros.pipeline.threads import Threads
from rain_removal_ros.runtime import Output

SIZE = (72, 96)
IMAGE = frozenset({Output.IMAGE})
BOTH = IMAGE | {Output.INVERSE_DEPTH}


class Bench:
    """A pipeline whose restorers are made from a list, and what it published."""

    def __init__(self, cameras: tuple[str, ...] = ("front",), **options):
        self.handler = FakeHandler()
        self.options = Options(**options)
        self.restorers = [FakeRestorer()]
        self.on_make = lambda: None
        self.fails = ""  # what of a runtime that is made anew fails, an attribute of FakeRestorer
        self.pipeline = Pipeline(
            {name: self.handler.of(name) for name in cameras},
            self.restorers[0],
            self.handler,
            options=lambda: self.options,
            make_restorer=self._make,
        )

    def _make(self) -> FakeRestorer:
        self.on_make()
        self.restorers.append(FakeRestorer())
        if self.fails:
            setattr(self.restorers[-1], self.fails, RuntimeError("CUDA error 700"))
        return self.restorers[-1]

    def send(self, number: int, camera: str = "front") -> None:
        """Submit a frame and wait until something was said of it."""
        before = len(self.handler.published) + len(self.handler.problems)
        self.pipeline.submit(camera, (number, *SIZE))
        self.handler.wait_for(lambda: len(self.handler.published) + len(self.handler.problems) > before)

    def publishes(self, number: int) -> None:
        self.pipeline.submit("front", (number, *SIZE))
        self.handler.wait_for(lambda: any(n == number for _, n, _ in self.handler.published))

    def failures(self) -> list[str]:
        return [text for _, problem, text in self.handler.problems if problem is Problem.FAILED]


@pytest.fixture
def bench():
    made = []

    def make(*cameras: str, **options) -> Bench:
        made.append(Bench(cameras or ("front",), **options))
        return made[-1]

    yield make
    for bench in made:
        for restorer in bench.restorers:
            restorer.gate.set()
            restorer.build_gate.set()
            restorer.load_gate.set()
        assert bench.pipeline.close(PATIENCE)


def hang(bench: Bench, number: int) -> threading.Event:
    """Have an inference hang until the event is set; returns when the watchdog has told of it."""
    restorer = bench.restorers[-1]
    restorer.gate.clear()
    bench.pipeline.submit("front", (number, *SIZE))
    bench.handler.wait_for(lambda: any("did not come back" in text for text in bench.failures()))
    return restorer.gate


def test_after_an_inference_that_hangs_another_runtime_serves_and_the_late_result_is_never_published(bench):
    bench = bench(inference_timeout_s=0.1)
    bench.publishes(0)
    gate = hang(bench, 1)
    bench.handler.wait_for(lambda: bench.handler.recovered)
    bench.publishes(2)
    gate.set()  # the old one comes back after all
    bench.publishes(3)
    assert [number for _, number, _ in bench.handler.published] == [0, 2, 3]
    hung, new = bench.restorers
    assert bench.pipeline.restorer is new and hung.cancelled
    assert bench.pipeline.health.failure is None and bench.pipeline.health.remade == 1
    assert bench.pipeline.close(PATIENCE)
    assert hung.closed and new.closed


def test_a_builder_that_waits_for_an_inference_that_hangs_is_replaced_and_not_counted_as_hanging(bench):
    bench = bench(inference_timeout_s=0.1)
    bench.publishes(0)
    first = bench.restorers[0]
    first.build_gate.clear()
    bench.pipeline.build((128, 128), IMAGE)
    assert first.building.acquire(timeout=PATIENCE) and first.building.acquire(timeout=PATIENCE)
    gate = hang(bench, 1)
    assert bench.pipeline.health.hanging == 1
    bench.handler.wait_for(lambda: bench.handler.recovered)
    assert bench.pipeline.wait_until_built(PATIENCE)
    assert bench.restorers[1].builds == [(SIZE, IMAGE), ((128, 128), IMAGE)]
    first.build_gate.set()
    gate.set()
    eventually(lambda: bench.pipeline.health.hanging == 0 and first.closed)


def test_a_runtime_made_anew_is_closed_though_the_one_before_still_hangs(bench):
    bench = bench(inference_timeout_s=0.1)
    bench.publishes(0)
    gate = hang(bench, 1)
    bench.handler.wait_for(lambda: bench.handler.recovered)
    assert not bench.pipeline.close(0.05)  # a thread is still in the driver
    hung, new = bench.restorers
    eventually(lambda: new.closed)
    assert not hung.closed
    gate.set()


def test_a_graph_that_hangs_as_it_is_loaded_has_the_runtime_made_anew(bench, monkeypatch):
    monkeypatch.setattr(failures, "LONGEST_LOADING_S", 0.0)
    monkeypatch.setattr(watchdog_module, "LOOK_AGAIN_S", 0.02)
    bench = bench()
    first = bench.restorers[0]
    first.build_gate.clear()
    bench.pipeline.submit("front", (0, *SIZE))
    assert first.building.acquire(timeout=PATIENCE)
    wait_until_watched(bench.pipeline)
    assert bench.pipeline.health.failure is None, "compiling may take long"
    first.loading_since = time.perf_counter()
    bench.handler.wait_for(lambda: bench.handler.recovered)
    assert "was not loaded within 0 s" in bench.handler.recovered[0]
    assert (None, Problem.FAILED) in [(camera, problem) for camera, problem, _ in bench.handler.problems]
    bench.publishes(1)
    assert bench.pipeline.health.hanging == 1 and not first.closed
    first.build_gate.set()  # it comes back after all
    eventually(lambda: first.closed and bench.pipeline.health.hanging == 0)
    bench.publishes(2)


def test_a_graph_that_hangs_as_it_is_loaded_from_the_cache_beside_a_build_has_the_runtime_made_anew(
    bench, monkeypatch
):
    monkeypatch.setattr(failures, "LONGEST_LOADING_S", 0.0)
    monkeypatch.setattr(watchdog_module, "LOOK_AGAIN_S", 0.02)
    bench = bench("front", "rear")
    first = bench.restorers[0]
    first.build_gate.clear()
    first.load_gate.clear()
    first.cached = {((128, 128), IMAGE)}
    bench.pipeline.submit("front", (0, *SIZE))
    assert first.building.acquire(timeout=PATIENCE)
    bench.pipeline.submit("rear", (1, 128, 128))
    assert first.loading.acquire(timeout=PATIENCE)
    wait_until_watched(bench.pipeline)
    assert bench.pipeline.health.failure is None and bench.pipeline.building.size == (128, 128)
    first.loading_since = time.perf_counter()
    bench.handler.wait_for(lambda: bench.handler.recovered)
    failure = bench.handler.recovered[0]
    assert "128x128" in failure and "was not loaded within 0 s" in failure
    eventually(lambda: first.cancelled)
    first.load_gate.set()  # it comes back after all
    first.build_gate.set()
    eventually(lambda: first.closed and bench.pipeline.health.hanging == 0)
    bench.publishes(2)
    assert bench.pipeline.building is None and not bench.pipeline.failed_builds


def test_a_device_on_which_every_graph_hangs_is_not_tried_without_end(bench, monkeypatch):
    monkeypatch.setattr(failures, "LONGEST_LOADING_S", 0.05)
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.0)
    monkeypatch.setattr(watchdog_module, "LOOK_AGAIN_S", 0.02)
    gate = threading.Event()

    class Ill(FakeRestorer):
        def prepare(self, *arguments) -> None:
            self.loading_since = time.perf_counter()
            assert gate.wait(PATIENCE)

    monkeypatch.setattr(sys.modules[__name__], "FakeRestorer", Ill)
    bench = bench()
    bench.pipeline.build(SIZE, IMAGE)
    eventually(lambda: bench.pipeline.health.broken)
    wait_until_watched(bench.pipeline)
    assert bench.pipeline.health.remaking_s is None
    assert len(bench.restorers) == MAX_HANGING
    gate.set()


def test_a_process_that_was_stopped_for_a_while_is_not_taken_for_a_device_that_hangs(bench, monkeypatch):
    bench = bench(inference_timeout_s=1.0)
    bench.publishes(0)
    state, watchdog, restorer = bench.pipeline._state, bench.pipeline._watchdog, bench.restorers[0]
    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + clock.stopped, stopped=0.0)
    monkeypatch.setattr(watchdog_module, "time", clock)
    assert restorer.working.acquire(timeout=PATIENCE)
    restorer.gate.clear()
    bench.pipeline.submit("front", (1, *SIZE))
    assert restorer.working.acquire(timeout=PATIENCE)
    wait_until_watched(bench.pipeline)
    with state.changed:
        clock.stopped = 3600.0
        state.changed.notify_all()
    eventually(lambda: watchdog._resumed, "the watchdog to go on")
    with state.changed:
        assert not bench.handler.problems and not watchdog.worker.left_behind
    hang(bench, 2)
    assert len(bench.failures()) == 1, "what goes on hanging is seen all the same"


def test_while_an_inference_hangs_everything_else_goes_on_answering(bench):
    bench = bench(inference_timeout_s=0.1)
    bench.publishes(0)
    block = threading.Event()
    bench.on_make = lambda: block.wait(PATIENCE)
    gate = hang(bench, 1)
    health = bench.pipeline.health
    assert "did not come back" in health.failure and health.hanging == 1
    bench.pipeline.clear()
    bench.send(2)
    assert [number for _, number, _ in bench.handler.published] == [0]
    assert not bench.pipeline.close(timeout=0.05), "it says that it could not end everything"
    block.set()
    gate.set()


def test_what_hangs_again_and_again_is_not_made_without_end(bench, monkeypatch):
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.0)
    bench = bench(inference_timeout_s=0.05)
    for number in range(MAX_HANGING):
        bench.restorers[-1].gate.clear()
        bench.pipeline.submit("front", (number, *SIZE))
        bench.handler.wait_for(lambda n=number: len(bench.failures()) == n + 1)
        if number + 1 < MAX_HANGING:
            bench.handler.wait_for(lambda n=number: len(bench.handler.recovered) == n + 1)
    assert bench.pipeline.health.hanging == MAX_HANGING
    assert len(bench.restorers) == MAX_HANGING
    bench.restorers[0].gate.set()  # one comes back, so there is room for another
    bench.handler.wait_for(lambda: len(bench.handler.recovered) == MAX_HANGING)
    bench.publishes(99)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error 719"), MemoryError(), SystemExit(3), KeyboardInterrupt()], ids=repr
)
def test_after_a_device_error_that_stays_the_runtime_is_made_anew_without_the_old_ones_memory(bench, error):
    bench = bench()
    bench.publishes(0)
    closed_before = []
    bench.on_make = lambda: closed_before.append(bench.restorers[0].closed)
    bench.restorers[0].fail_frames = error
    for number in range(1, 1 + FAILURES_IN_A_ROW):
        bench.send(number)
    bench.handler.wait_for(lambda: bench.handler.recovered)
    bench.publishes(9)
    assert closed_before == [True]
    assert len(bench.failures()) == FAILURES_IN_A_ROW
    assert bench.restorers[1].builds == [(SIZE, IMAGE)], "what was in use is ready before it serves"


@pytest.mark.parametrize("fails", ["fail_frames", "fail_builds"])
def test_a_runtime_that_fails_each_time_before_it_restores_anything_is_broken(bench, monkeypatch, fails):
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.0)
    bench = bench()
    bench.fails = fails
    setattr(bench.restorers[0], fails, RuntimeError("CUDA error 700"))
    bench.on_make = lambda: broken.append(bench.pipeline.health.broken)
    broken: list[bool] = []

    def until(reached) -> None:
        def sent() -> bool:
            bench.pipeline.submit("front", (1, *SIZE))
            return reached()

        eventually(sent)

    until(lambda: len(broken) > MAX_NOT_REMADE)
    assert broken[: MAX_NOT_REMADE + 1] == [False] * MAX_NOT_REMADE + [True]
    assert not bench.handler.published
    bench.fails = ""
    until(lambda: bench.handler.published)
    assert (bench.pipeline.health.failure, bench.pipeline.health.not_remade) == (None, 0)


def test_one_failure_is_a_lost_frame_and_nothing_more(bench):
    bench = bench()
    bench.publishes(0)
    for number in range(3):
        bench.restorers[0].fail_frames = RuntimeError("once")
        bench.send(2 * number + 1)
        bench.restorers[0].fail_frames = None
        bench.publishes(2 * number + 2)
    assert len(bench.restorers) == 1 and bench.pipeline.health.failure is None


def test_a_runtime_that_cannot_be_made_anew_is_tried_again_later(bench, monkeypatch):
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.05)
    bench = bench()
    bench.publishes(0)
    left = [RuntimeError("the device fell off the bus")] * 2

    counted = []

    def on_make():
        health = bench.pipeline.health
        assert 0 <= health.remaking_s < PATIENCE
        counted.append(health.not_remade)
        if left:
            raise left.pop()

    bench.on_make = on_make
    bench.restorers[0].fail_frames = RuntimeError("lost")
    for number in range(1, 4):
        bench.send(number)
    bench.handler.wait_for(lambda: bench.handler.recovered)
    bench.publishes(9)
    assert sum("fell off" in text for text in bench.failures()) == 2
    health = bench.pipeline.health
    assert counted == [0, 1, 2] and (health.not_remade, health.remaking_s) == (0, None)


def test_what_ran_is_compiled_for_a_runtime_made_anew_and_not_what_was_wanted(bench):
    """What was wanted may be what could not be compiled."""
    bench = bench()
    bench.publishes(0)
    bench.restorers[0].fail_builds = RuntimeError("no such engine")
    bench.handler.outputs = BOTH
    bench.publishes(1)
    bench.handler.wait_for(lambda: any("no such engine" in text for *_, text in bench.handler.problems))
    bench.restorers[0].fail_frames = RuntimeError("lost")
    for number in range(2, 2 + FAILURES_IN_A_ROW):
        bench.send(number)
    bench.handler.wait_for(lambda: bench.handler.recovered)
    bench.publishes(9)
    assert bench.restorers[1].builds[0] == (SIZE, IMAGE)


def test_a_runtime_made_anew_serves_with_what_can_be_compiled_of_what_ran(bench):
    bench = bench("front", "rear")
    bench.publishes(0)
    bench.pipeline.submit("rear", (1, 128, 160))
    bench.handler.wait_for(lambda: any(camera == "rear" for camera, *_ in bench.handler.published))
    make = bench._make

    def make_one_without_room():
        restorer = make()
        prepare = restorer.prepare

        def prepare_small(height, *others):
            if height > SIZE[0]:
                raise RuntimeError("out of memory")
            prepare(height, *others)

        restorer.prepare = prepare_small
        return restorer

    bench.pipeline._state.recovery.make = make_one_without_room
    bench.restorers[0].fail_frames = RuntimeError("lost")
    for number in range(2, 2 + FAILURES_IN_A_ROW):
        bench.send(number)
    bench.handler.wait_for(lambda: bench.handler.recovered)
    bench.publishes(9)


def break_runtime(bench: Bench) -> None:
    """Have the inference fail until the runtime is taken to have failed."""
    bench.publishes(0)
    bench.restorers[0].fail_frames = RuntimeError("lost")
    for number in range(1, 1 + FAILURES_IN_A_ROW):
        bench.send(number)


def test_what_fails_again_and_again_is_tried_ever_more_rarely():
    def after(seconds: float, attempts: int) -> bool:
        when = time.perf_counter() - seconds
        return failures.Failure(RuntimeError(), when, attempts).may_be_tried_again

    assert after(11, 1) and not after(11, 2) and after(21, 2) and not after(300, 9) and after(321, 9)
    builds, key = Builds(), (SIZE, IMAGE)
    attempts = []
    for _ in range(3):
        builds.on_ended(key, failures.Failure(RuntimeError("no room")), known=False)
        attempts.append(builds.failure_of(key).attempts)
    builds.on_ended(key, None, known=False)
    builds.on_ended(key, failures.Failure(RuntimeError("no room")), known=False)
    assert [*attempts, builds.failure_of(key).attempts] == [1, 2, 3, 1]


def test_of_threads_that_are_left_behind_those_hang_that_are_in_the_device_and_have_not_come_back():
    threads, gate, quick = Threads(), threading.Event(), threading.Event()
    for name in ("restore", "build"):
        threads.start(name, gate.wait, PATIENCE)
    threads.start("build", quick.set)
    assert quick.wait(PATIENCE)
    threads.leave_behind("build", hanging=False)
    threads.leave_behind("restore", hanging=True)
    assert threads.hanging == 1 and {"build", "restore"} == {each.name for each in threads.left_behind}
    assert threads.take("restore") == []
    gate.set()
    eventually(lambda: threads.hanging == 0)


def test_a_runtime_is_due_once_it_has_failed_until_that_is_begun_and_later_where_it_came_to_nothing():
    recovery, lost = Recovery(FakeRestorer), RuntimeError("lost")
    assert [recovery.on_failed_inference(lost) for _ in range(FAILURES_IN_A_ROW - 1)] == [None, None]
    recovery.on_restored()
    said = [recovery.on_failed_inference(lost) for _ in range(FAILURES_IN_A_ROW)]
    assert said == [None, None, "3 inferences in a row failed: lost"] and recovery.due is None
    recovery.on_failed(said[-1])
    now = time.perf_counter()
    assert recovery.due <= now
    recovery.on_begun(now)
    assert recovery.due is None
    recovery.on_not_remade()
    assert recovery.due >= now + failures.RETRY_AFTER_S and recovery.failure == said[-1]
    recovery.on_begun(now)
    assert recovery.on_remade() == said[-1]
    assert (recovery.due, recovery.failure, recovery.remade, recovery.not_remade) == (None, None, 1, 1)
    recovery.on_restored()
    assert recovery.not_remade == 0
    assert Recovery(None).on_failed_inference(lost) is None


def test_a_trial_that_gave_way_again_is_not_tried_more_rarely_for_it():
    for error, attempts in ((NotPreparedError("something more urgent"), 1), (RuntimeError("no room"), 2)):
        batches = Batches()
        for _ in range(2):
            batches.on_tried(((SIZE, IMAGE), 2), failures.Failure(error))
        assert batches._trials[(SIZE, IMAGE), 2].outcome.attempts == attempts


def test_a_runtime_made_anew_that_cannot_be_compiled_gives_its_memory_back_before_the_next_is_made(
    bench, monkeypatch
):
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.05)
    bench = bench()
    still_open = []

    def on_make():
        still_open.append([restorer for restorer in bench.restorers if not restorer.closed])

    make = bench._make

    def make_one_that_fails_twice():
        restorer = make()
        restorer.fail_builds = RuntimeError("out of memory") if len(bench.restorers) < 4 else None
        return restorer

    bench.on_make, bench.pipeline._state.recovery.make = on_make, make_one_that_fails_twice
    break_runtime(bench)
    bench.handler.wait_for(lambda: bench.handler.recovered)
    bench.publishes(9)
    assert still_open == [[], [], []]
    assert [restorer.closed for restorer in bench.restorers] == [True, True, True, False]


def test_a_runtime_that_cannot_even_be_closed_is_made_anew_all_the_same(bench):
    bench = bench()

    def close():
        raise RuntimeError("CUDA error 719 again")

    bench.restorers[0].close = close
    break_runtime(bench)
    bench.handler.wait_for(lambda: bench.handler.recovered)
    bench.publishes(9)
    assert "CUDA error 719 again" in bench.failures()


def test_closing_while_the_runtime_is_made_anew_gives_up_its_build_and_closes_it(bench):
    bench = bench()
    make = bench._make

    def make_one_that_compiles_for_long():
        restorer = make()
        restorer.build_gate.clear()
        cancel = restorer.cancel_builds

        def cancel_builds():
            cancel()
            restorer.build_gate.set()

        restorer.cancel_builds = cancel_builds
        return restorer

    bench.pipeline._state.recovery.make = make_one_that_compiles_for_long
    break_runtime(bench)
    eventually(lambda: len(bench.restorers) == 2)
    assert bench.restorers[1].building.acquire(timeout=PATIENCE)
    assert bench.pipeline.close(PATIENCE)
    assert [restorer.closed for restorer in bench.restorers] == [True, True]
    assert not bench.handler.recovered


WRONG = {
    "nan": {"inverse_depth": np.full(SIZE, np.nan, np.float32)},
    "one nan": {"inverse_depth": np.where(np.arange(72 * 96).reshape(SIZE) == 5000, np.nan, 1).astype("f4")},
    "infinite": {"inverse_depth": np.full(SIZE, np.inf, np.float32)},
    "negative": {"inverse_depth": np.full(SIZE, -1, np.float32)},
    "other dtype": {"inverse_depth": np.zeros(SIZE, np.float64)},
    "3x3 image": {"image": np.zeros((3, 3, 3), np.uint8)},
    "no colours": {"image": np.zeros(SIZE, np.uint8)},
    "float image": {"image": np.zeros((*SIZE, 3), np.float32)},
    "nothing": {"image": None},
    "rain gate": {"rain_gate": float("nan")},
    "extinction": {"extinction": -0.1},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_is_not_published(bench, wrong):
    bench = bench()
    bench.handler.outputs = BOTH
    bench.publishes(0)
    bench.restorers[0].wrong = WRONG[wrong]
    bench.send(1)
    bench.restorers[0].wrong = {}
    bench.publishes(2)
    assert [number for _, number, _ in bench.handler.published] == [0, 2]
    assert len(bench.failures()) == 1 and "the network gave" in bench.failures()[0]


def test_with_passthrough_a_frame_that_cannot_be_restored_is_published_as_it_came_and_counted(bench):
    bench = bench(on_failure=OnFailure.PASSTHROUGH, inference_timeout_s=0.1)
    bench.publishes(0)
    assert bench.handler.images[-1].max() == 10
    block = threading.Event()
    bench.on_make = lambda: block.wait(PATIENCE)
    gate = hang(bench, 1)
    bench.publishes(2)
    assert bench.handler.images[-1].max() == 0, "the image as it came"
    bench.pipeline.clear()
    seen = bench.pipeline.snapshot()["front"]
    assert seen.counts.ways == {Way.RESTORED: 1, Way.PASSED_THROUGH: 1, Way.BYPASSED: 0}
    assert seen.last_way is Way.PASSED_THROUGH and seen.counts.problems[Problem.FAILED] >= 1
    block.set()
    bench.handler.wait_for(lambda: bench.handler.recovered)
    bench.publishes(3)
    assert bench.handler.images[-1].max() == 10
    gate.set()


def test_with_passthrough_a_build_that_failed_lets_images_through_but_no_depth(bench):
    bench = bench(on_failure=OnFailure.PASSTHROUGH)
    bench.restorers[0].fail_builds = RuntimeError("no tactic")
    bench.pipeline.submit("front", (0, *SIZE))
    bench.handler.wait_for(lambda: bench.handler.problems)
    bench.publishes(1)
    bench.handler.outputs = frozenset({Output.INVERSE_DEPTH})
    bench.send(2)
    assert {number for _, number, _ in bench.handler.published} <= {0, 1}


class StandingIn:
    """A pipeline whose network is being compiled until a gate is opened, and the stand-ins that it makes."""

    def __init__(self, *cameras: str, hanging: bool = False, **options):
        self.handler, self.restorer, self.made = FakeHandler(), FakeRestorer(), []
        self.hanging, self.remade = hanging, []
        self.pipeline = Pipeline(
            {name: self.handler.of(name) for name in cameras or ("front",)},
            self.restorer,
            self.handler,
            options=lambda: Options(serve_while_building=True, **options),
            make_restorer=self._remake,
            make_stand_in=self._make,
        )
        self.restorer.build_gate.clear()

    def _make(self):
        self.made.append(FakeRestorer("torch-cpu"))
        if self.hanging:
            self.made[-1].gate.clear()
        return self.made[-1]

    def _remake(self):
        self.remade.append(FakeRestorer())
        return self.remade[-1]

    def end(self):
        for restorer in (self.restorer, *self.made, *self.remade):
            restorer.gate.set()
            restorer.build_gate.set()
        assert self.pipeline.close(PATIENCE)

    def hangs(self, number: int) -> None:
        """Have a frame hang in the stand-in."""
        before = len(self.handler.problems)

        def hung() -> bool:
            self.pipeline.submit("front", (number, *SIZE))
            return len(self.handler.problems) > before

        eventually(hung)


@pytest.fixture
def standing_in(monkeypatch):
    monkeypatch.setattr(stand_in_module, "PATIENCE", 1)
    benches = []

    def make(*cameras: str, **options) -> StandingIn:
        benches.append(StandingIn(*cameras, **options))
        return benches[-1]

    yield make
    for bench in benches:
        bench.end()


def test_a_hanging_stand_in_does_not_condemn_the_runtime(standing_in):
    bench = standing_in(hanging=True, inference_timeout_s=0.1)
    bench.hangs(0)
    assert bench.pipeline.health.failure is None and bench.pipeline.health.hanging == 0
    assert len(bench.restorer.builds) == 1, "the build goes on where it was"
    bench.restorer.build_gate.set()
    bench.pipeline.wait_until_built(PATIENCE)  # before that nothing is left to serve a frame
    bench.pipeline.submit("front", (1, *SIZE))
    bench.handler.wait_for(lambda: bench.handler.published)
    assert bench.pipeline.restorer is bench.restorer and not bench.handler.recovered
    assert len(bench.restorer.builds) == 1


def test_a_stand_in_that_hangs_again_and_again_is_not_made_without_end_and_diagnostics_hear_of_it(
    standing_in, monkeypatch
):
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.0)
    bench = standing_in(hanging=True, inference_timeout_s=0.05)

    def given_up() -> bool:
        bench.hangs(len(bench.made))
        return bench.pipeline.health.stand_in is not None

    eventually(given_up)
    assert "restart the node" in bench.pipeline.health.stand_in
    for number in range(3):
        bench.hangs(number)
    assert len(bench.made) == MAX_HANGING
    bench.restorer.build_gate.set()  # the runtime itself can still be made anew
    assert bench.pipeline.wait_until_built(PATIENCE)
    bench.restorer.fail_frames = RuntimeError("CUDA error 719")
    for number in range(FAILURES_IN_A_ROW):
        bench.hangs(number)
    bench.handler.wait_for(lambda: bench.handler.recovered)
    assert len(bench.remade) == 1


def test_what_comes_back_from_a_stand_in_that_was_left_behind_does_not_speak_for_the_next(standing_in):
    bench = standing_in()
    state = bench.pipeline._state
    bench.pipeline.submit("front", (0, *SIZE))
    bench.handler.wait_for(lambda: bench.handler.published)
    [stand_in] = bench.made
    assert stand_in.working.acquire(timeout=PATIENCE)
    stand_in.gate.clear()
    bench.pipeline.submit("front", (1, *SIZE))
    assert stand_in.working.acquire(timeout=PATIENCE)
    with state.changed:
        state.stand_in.on_hanging(InferenceError("it hangs as it prepares another size"))
    stand_in.gate.set()
    bench.handler.wait_for(lambda: len(bench.handler.published) == 2)
    assert state.stand_in.failure is not None


def test_a_stand_in_that_hangs_is_made_ever_more_rarely_until_one_has_served():
    stand_in, hangs = StandIn(FakeRestorer), InferenceError("it hangs")
    for attempts in (1, 2, 3):
        stand_in.on_made(FakeRestorer())
        stand_in.on_hanging(hangs)
        assert stand_in.failure.attempts == attempts and not stand_in.may_be_made_ready((SIZE, IMAGE))
    stand_in.on_made(FakeRestorer())
    stand_in.on_served((SIZE, IMAGE))
    stand_in.on_hanging(hangs)
    assert stand_in.failure.attempts == 1


def test_frames_that_a_stand_in_serves_do_not_hide_that_the_runtime_fails(standing_in):
    bench = standing_in("front", "rear")
    bench.restorer.build_gate.set()
    bench.pipeline.build(SIZE, IMAGE)
    assert bench.pipeline.wait_until_built(PATIENCE)
    bench.restorer.build_gate.clear()
    bench.restorer.fail_frames = RuntimeError("CUDA error 719")
    for number in range(FAILURES_IN_A_ROW):
        bench.pipeline.submit("rear", (number, 128, 128))
        bench.handler.wait_for(lambda number=number: len(bench.handler.published) == number + 1)
        bench.pipeline.submit("front", (number, *SIZE))
        bench.handler.wait_for(lambda number=number: len(bench.handler.problems) == number + 1)
    bench.handler.wait_for(lambda: bench.handler.recovered)


def test_a_stand_in_that_takes_for_ever_to_load_is_told(standing_in, monkeypatch):
    monkeypatch.setattr(stand_in_module, "LONGEST_MAKING_S", 0.0)
    bench, block = standing_in(), threading.Event()
    bench.pipeline._state.stand_in.make = lambda: block.wait(PATIENCE) and FakeRestorer("torch-cpu")
    bench.pipeline.submit("front", (0, *SIZE))
    assert bench.restorer.building.acquire(timeout=PATIENCE)
    eventually(lambda: bench.pipeline.health.stand_in is not None)
    assert "has been loading for" in bench.pipeline.health.stand_in
    block.set()
    bench.handler.wait_for(lambda: bench.handler.published)
    assert bench.pipeline.health.stand_in is None


def test_a_stand_in_that_hangs_as_it_prepares_itself_is_left_behind(standing_in, monkeypatch):
    monkeypatch.setattr(stand_in_module, "HANGS_AFTER_S", 0.2)
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.0)
    bench, block = standing_in(), threading.Event()
    first = FakeRestorer("torch-cpu")
    first.prepare = lambda *arguments: block.wait(PATIENCE)
    made = iter([first])
    make = bench._make
    bench.pipeline._state.stand_in.make = lambda: next(made, None) or make()
    bench.pipeline.submit("front", (0, *SIZE))
    bench.handler.wait_for(lambda: bench.handler.published)  # by a second one
    assert not bench.pipeline.close(0.05), "a thread is still in the driver"
    assert bench.restorer.closed is False and not first.closed  # its build is under way
    bench.restorer.build_gate.set()
    block.set()
    eventually(lambda: first.closed and bench.restorer.closed and bench.made[0].closed)


def test_a_runtime_that_fails_while_a_graph_hangs_as_it_is_loaded_is_made_anew(bench):
    bench = bench("front", "rear")
    bench.publishes(0)
    first, closing = bench.restorers[0], threading.Event()
    first.build_gate.clear()
    first.close = lambda: (first.build_gate.wait(PATIENCE), closing.set())  # for the lock that a build holds
    bench.pipeline.submit("rear", (0, 128, 128))
    assert first.building.acquire(timeout=PATIENCE)
    assert first.building.acquire(timeout=PATIENCE)
    first.loading_since = time.perf_counter()
    first.fail_frames = RuntimeError("CUDA error 719")
    for number in range(1, 1 + FAILURES_IN_A_ROW):
        bench.send(number)
    bench.handler.wait_for(lambda: bench.handler.recovered)
    bench.publishes(9)
    assert not closing.is_set()
    first.build_gate.set()
    assert closing.wait(PATIENCE)


def test_a_frame_that_hangs_in_a_runtime_that_was_replaced_condemns_no_other(bench, monkeypatch):
    monkeypatch.setattr(failures, "LONGEST_LOADING_S", 0.1)
    monkeypatch.setattr(watchdog_module, "LOOK_AGAIN_S", 0.02)
    bench = bench("front", "rear", inference_timeout_s=1.5)
    bench.publishes(0)
    first = bench.restorers[0]
    first.gate.clear()
    bench.pipeline.submit("front", (1, *SIZE))
    assert first.working.acquire(timeout=PATIENCE) and first.working.acquire(timeout=PATIENCE)
    first.build_gate.clear()
    bench.pipeline.build((128, 128), IMAGE)
    assert first.building.acquire(timeout=PATIENCE) and first.building.acquire(timeout=PATIENCE)
    first.loading_since = time.perf_counter()
    bench.handler.wait_for(lambda: bench.handler.recovered)
    bench.handler.wait_for(lambda: any("did not come back" in text for text in bench.failures()))
    bench.publishes(2)
    assert len(bench.restorers) == 2 and bench.pipeline.restorer is bench.restorers[1]
    assert bench.pipeline.health.failure is None and bench.pipeline.health.hanging == 2
    first.gate.set()
    first.build_gate.set()


def test_an_inference_of_a_stand_in_may_take_longer_and_only_its_first_of_a_size(standing_in, monkeypatch):
    monkeypatch.setattr(stand_in_module, "PATIENCE", 300)
    bench = standing_in(inference_timeout_s=0.5)
    bench.hanging = True
    bench.pipeline.submit("front", (0, *SIZE))
    eventually(lambda: bench.pipeline.health.patience_s is not None)
    assert bench.pipeline.health.patience_s == pytest.approx(150)
    bench.made[0].gate.set()
    bench.handler.wait_for(lambda: bench.handler.published)
    bench.made[0].gate.clear()
    bench.hangs(1)
