"""Newest frame wins, no camera waits for another, nothing is computed for nobody, no error stops it."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref

import pytest
from pipeline_fakes import FakeHandler, FakeRestorer, streak_light_of, wait_until_idle
from waiting import PATIENCE, eventually

from rain_removal_ros import frame_statistics
from rain_removal_ros.errors import ImageError
from rain_removal_ros.pipeline import (
    Distribution,
    OnFailure,
    Options,
    Pipeline,
    Problem,
    Stage,
    StageTimes,
    Way,
    builds,
    failures,
)
from rain_removal_ros.pipeline import stand_in as stand_in_module
from rain_removal_ros.runtime import Output

SIZE = (72, 96)
IMAGE = frozenset({Output.IMAGE})
DEPTH = frozenset({Output.INVERSE_DEPTH})
BOTH = IMAGE | DEPTH


@pytest.fixture
def restorer():
    return FakeRestorer()


@pytest.fixture
def handler():
    return FakeHandler()


@pytest.fixture
def make(restorer, handler):
    """Makes pipelines, and closes them in the end with every gate open."""
    made = []

    def make_pipeline(*cameras: str, **options) -> Pipeline:
        handlers = {name: handler.of(name) for name in cameras or ("front",)}
        made.append(Pipeline(handlers, restorer, handler, **options))
        return made[-1]

    yield make_pipeline
    restorer.gate.set()
    restorer.build_gate.set()
    for pipeline in made:
        assert pipeline.close(PATIENCE)


def built(pipeline: Pipeline, outputs=IMAGE, size=SIZE) -> Pipeline:
    pipeline.build(size, outputs)
    assert pipeline.wait_until_built(PATIENCE)
    return pipeline


def test_frames_that_never_were_in_the_network_say_nothing_of_its_time():
    statistics = frame_statistics.CameraStatistics("front")
    for number, (way, inference) in enumerate([(Way.BYPASSED, None)] * 9 + [(Way.RESTORED, 0.08)]):
        times = StageTimes(waiting=0.0, conversion=0.001, inference=inference, publishing=0.001)
        statistics.on_published(float(number), way, times, None)
    stages = statistics.snapshot(9.0, dry=True).stages
    assert stages[Stage.INFERENCE].count == 1 and stages[Stage.INFERENCE].median == 0.08
    assert stages[Stage.TOTAL].count == 10


def test_rates_begin_anew_where_somebody_subscribes_and_where_a_node_is_activated_again():
    statistics = frame_statistics.CameraStatistics("front")
    times = StageTimes(waiting=0.0, conversion=0.0, inference=0.1, publishing=0.0)

    def run(begin: float, end: float, wanted: bool) -> None:
        """Images at 10 Hz."""
        for tenth in range(round(10 * begin), round(10 * end)):
            statistics.on_received(tenth / 10)
            if wanted:
                statistics.on_published(tenth / 10, Way.RESTORED, times, None)
            else:
                statistics.on_idle()

    def rates(now: float) -> tuple[float, float]:
        snapshot = statistics.snapshot(now, dry=False)
        return snapshot.rate_in, snapshot.rate_out

    assert rates(0.0) == (0.0, 0.0)
    run(0, 20, wanted=False)
    assert rates(20.0) == pytest.approx((10, 0))
    run(20, 23, wanted=True)
    assert rates(23.0) == pytest.approx((10, 10))
    run(23, 25, wanted=False)
    run(25, 27, wanted=True)
    assert rates(27.0) == pytest.approx((10, 10))
    statistics.on_pause()
    run(30, 32, wanted=True)
    assert rates(32.0) == pytest.approx((10, 10))
    assert rates(34.0) == pytest.approx((5, 5))  # nothing came any more


def test_a_copy_of_statistics_stays_as_it_was():
    statistics = frame_statistics.CameraStatistics("front")
    times = StageTimes(waiting=0.0, conversion=0.0, inference=0.1, publishing=0.0)

    def count() -> None:
        statistics.on_received(1.0)
        statistics.on_published(1.1, Way.RESTORED, times, 0.2)
        statistics.on_problem(1.2, Problem.FAILED, RuntimeError("ill"))

    count()
    copy = statistics.copy()
    before = copy.snapshot(2.0, dry=False)
    count()
    assert copy.snapshot(2.0, dry=False) == before != statistics.snapshot(2.0, dry=False)
    assert before.counts.ways[Way.RESTORED] == before.counts.problems[Problem.FAILED] == 1


def test_every_frame_of_a_slow_stream_is_published_once_and_in_order(make, handler):
    pipeline = built(make())
    for number in range(5):
        pipeline.submit("front", (number, *SIZE))
        handler.wait_for(lambda number=number: len(handler.published) == number + 1)
    assert handler.published == [("front", number, IMAGE) for number in range(5)]
    pipeline.clear()
    counts = pipeline.snapshot()["front"].counts
    assert (counts.received, counts.published, counts.dropped) == (5, 5, 0)


def test_under_overload_the_newest_frame_wins_and_older_ones_are_counted_as_dropped(make, restorer, handler):
    pipeline = built(make())
    restorer.gate.clear()
    pipeline.submit("front", (0, *SIZE))
    assert restorer.working.acquire(timeout=PATIENCE)
    for number in range(1, 10):
        pipeline.submit("front", (number, *SIZE))
    restorer.gate.set()
    handler.wait_for(lambda: len(handler.published) == 2)
    assert [number for _, number, _ in handler.published] == [0, 9]
    pipeline.clear()
    counts = pipeline.snapshot()["front"].counts
    assert (counts.received, counts.published, counts.dropped) == (10, 2, 8)


def test_a_slow_camera_has_its_turn_beside_one_that_always_has_a_frame_waiting(make, restorer, handler):
    pipeline = built(make("fast", "slow"))
    restorer.gate.clear()
    pipeline.submit("fast", (0, *SIZE))
    assert restorer.working.acquire(timeout=PATIENCE)
    pipeline.submit("fast", (1, *SIZE))
    pipeline.submit("slow", (2, *SIZE))
    restorer.gate.set()
    handler.wait_for(lambda: len(handler.published) == 3)
    assert [camera for camera, _, _ in handler.published] == ["fast", "slow", "fast"]


def test_without_a_subscriber_nothing_is_read_and_nothing_computed(make, restorer, handler):
    handler.outputs = frozenset()
    pipeline = make()
    pipeline.submit("front", AssertionError("must not be read"))
    pipeline.clear()
    handler.outputs = IMAGE
    pipeline.submit("front", (1, *SIZE))
    handler.wait_for(lambda: handler.published)
    counts = pipeline.snapshot()["front"].counts
    assert counts.idle + counts.dropped == 1
    assert not handler.problems
    assert len(restorer.calls) == 1


@pytest.mark.parametrize("outputs", [IMAGE, DEPTH, BOTH])
def test_only_the_outputs_that_somebody_wants_are_asked_for_and_published(make, restorer, handler, outputs):
    handler.outputs = outputs
    make().submit("front", (0, *SIZE))
    handler.wait_for(lambda: handler.published)
    assert restorer.calls == [(SIZE, outputs)]
    assert handler.published == [("front", 0, outputs)]


def test_a_frame_of_a_new_size_waits_for_its_build_and_then_comes_out(make, restorer, handler):
    restorer.build_gate.clear()
    pipeline = make()
    pipeline.submit("front", (0, *SIZE))
    assert restorer.building.acquire(timeout=PATIENCE)
    assert "96x72" in str(pipeline.building) and "tuning kernels" in str(pipeline.building)
    pipeline.submit("front", (1, *SIZE))
    pipeline.submit("front", (2, *SIZE))
    assert not handler.published
    restorer.build_gate.set()
    handler.wait_for(lambda: handler.published)
    assert handler.published == [("front", 2, IMAGE)]
    assert pipeline.building is None
    assert restorer.builds == [(SIZE, IMAGE)]


def test_while_one_size_is_built_the_other_cameras_go_on(make, restorer, handler):
    pipeline = built(make("front", "rear"))
    assert restorer.building.acquire(timeout=PATIENCE)
    restorer.build_gate.clear()
    pipeline.submit("rear", (0, 128, 128))
    assert restorer.building.acquire(timeout=PATIENCE)
    for number in range(3):
        pipeline.submit("front", (number, *SIZE))
        handler.wait_for(lambda number=number: len(handler.published) == number + 1)
    assert all(camera == "front" for camera, _, _ in handler.published)
    restorer.build_gate.set()
    handler.wait_for(lambda: ("rear", 0, IMAGE) in handler.published)


def test_what_is_in_the_cache_is_loaded_and_serves_while_another_size_is_compiled(make, restorer, handler):
    restorer.build_gate.clear()
    restorer.cached = {((64, 64), IMAGE)}
    pipeline = make("front", "rear", "left")
    pipeline.submit("front", (1, *SIZE))
    assert restorer.building.acquire(timeout=PATIENCE)
    pipeline.submit("left", (2, 80, 80))
    eventually(lambda: ((80, 80), IMAGE) in restorer.looked_for)
    pipeline.submit("rear", (3, 64, 64))
    handler.wait_for(lambda: ("rear", 3, IMAGE) in handler.published)
    assert pipeline.building.size == SIZE and "tuning kernels" not in str(handler.built[0])
    assert [build.size for build in handler.built] == [(64, 64)] and restorer.builds == [(SIZE, IMAGE)]
    pipeline.submit("rear", (4, 64, 64))
    handler.wait_for(lambda: ("rear", 4, IMAGE) in handler.published)
    restorer.build_gate.set()
    handler.wait_for(lambda: {camera for camera, _, _ in handler.published} == {"front", "rear", "left"})
    assert restorer.builds == [(SIZE, IMAGE), ((80, 80), IMAGE)]
    assert sorted(restorer.looked_for) == [((64, 64), IMAGE), ((80, 80), IMAGE)], "once each"


def test_what_cannot_be_loaded_from_the_cache_is_told_and_does_not_end_what_is_compiled(
    make, restorer, handler
):
    restorer.build_gate.clear()
    restorer.cached, restorer.fail_loads = {((64, 64), IMAGE)}, RuntimeError("no device memory")
    pipeline = make("front", "rear")
    pipeline.submit("front", (1, *SIZE))
    assert restorer.building.acquire(timeout=PATIENCE)
    pipeline.submit("rear", (2, 64, 64))
    eventually(lambda: pipeline.failed_builds == ["64x64: no device memory"])
    assert pipeline.building.size == SIZE
    restorer.build_gate.set()
    handler.wait_for(lambda: ("front", 1, IMAGE) in handler.published)
    assert restorer.builds == [(SIZE, IMAGE)]


def test_a_new_subscriber_does_not_stop_the_stream_while_its_output_is_built(make, restorer, handler):
    pipeline = built(make())
    assert restorer.building.acquire(timeout=PATIENCE)
    restorer.build_gate.clear()
    handler.outputs = BOTH
    pipeline.submit("front", (0, *SIZE))
    handler.wait_for(lambda: len(handler.published) == 1)
    assert restorer.building.acquire(timeout=PATIENCE)
    restorer.build_gate.set()
    assert pipeline.wait_until_built(PATIENCE)
    pipeline.submit("front", (1, *SIZE))
    handler.wait_for(lambda: len(handler.published) == 2)
    assert handler.published == [("front", 0, IMAGE), ("front", 1, BOTH)]


def test_while_building_a_stand_in_serves_when_it_may(make, restorer, handler):
    stand_in = FakeRestorer("torch-cpu")
    may_serve = False
    restorer.build_gate.clear()
    pipeline = make(make_stand_in=lambda: stand_in, options=lambda: Options(serve_while_building=may_serve))
    pipeline.submit("front", (0, *SIZE))
    assert restorer.building.acquire(timeout=PATIENCE)
    assert not stand_in.calls
    may_serve = True  # changed while a frame waits already
    pipeline.submit("front", (1, *SIZE))
    handler.wait_for(lambda: handler.published[-1:] == [("front", 1, IMAGE)])
    served = len(handler.published)  # the first frame as well, where the worker looked between the two lines
    assert len(stand_in.calls) == served and not restorer.calls
    restorer.build_gate.set()
    assert pipeline.wait_until_built(PATIENCE)
    pipeline.submit("front", (2, *SIZE))
    handler.wait_for(lambda: len(handler.published) == served + 1)
    assert len(restorer.calls) == 1
    assert pipeline.close(PATIENCE) and stand_in.closed and restorer.closed


def test_a_stand_in_that_cannot_be_made_is_not_made_for_every_frame(make, restorer, handler, monkeypatch):
    tried = []
    mended = False

    def make_stand_in():
        tried.append(len(tried))
        if not mended:
            raise RuntimeError("no memory left")
        return FakeRestorer("torch-cpu")

    restorer.build_gate.clear()
    pipeline = make(make_stand_in=make_stand_in, options=lambda: Options(serve_while_building=True))
    for number in range(3):
        pipeline.submit("front", (number, *SIZE))
        handler.wait_for(lambda number=number: len(handler.problems) == number + 1)
    assert handler.problems == [("front", Problem.FAILED, "no memory left")] * 3
    assert len(tried) == 1
    mended = True
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.0)
    pipeline.submit("front", (3, *SIZE))
    handler.wait_for(lambda: handler.published)
    assert len(tried) == 2


def test_other_cameras_do_not_wait_while_a_stand_in_is_made(make, restorer, handler):
    may_be_made, making = threading.Event(), threading.Semaphore(0)

    def make_stand_in():
        making.release()
        assert may_be_made.wait(PATIENCE)
        return FakeRestorer("torch-cpu")

    pipeline = built(
        make("front", "rear", make_stand_in=make_stand_in, options=lambda: Options(serve_while_building=True))
    )
    restorer.build_gate.clear()
    pipeline.submit("rear", (0, 128, 128))
    assert making.acquire(timeout=PATIENCE)
    pipeline.submit("front", (1, *SIZE))
    handler.wait_for(lambda: handler.published == [("front", 1, IMAGE)])
    may_be_made.set()
    handler.wait_for(lambda: handler.published[1:] == [("rear", 0, IMAGE)])
    assert not making.acquire(blocking=False)


def test_other_cameras_do_not_wait_while_a_stand_in_prepares_itself(make, restorer, handler):
    stand_in = FakeRestorer("torch-cpu")
    stand_in.build_gate.clear()
    options = Options(serve_while_building=True)
    pipeline = built(make("front", "rear", make_stand_in=lambda: stand_in, options=lambda: options))
    restorer.build_gate.clear()
    for number, size in enumerate(((128, 128), (192, 192))):  # the second by a stand-in that serves already
        published = len(handler.published)
        pipeline.submit("rear", (number, *size))
        assert stand_in.building.acquire(timeout=PATIENCE)
        pipeline.submit("front", (9, *SIZE))
        handler.wait_for(lambda published=published: len(handler.published) == published + 1)
        assert handler.published[-1] == ("front", 9, IMAGE)
        stand_in.build_gate.set()
        handler.wait_for(lambda number=number: handler.published[-1] == ("rear", number, IMAGE))
        stand_in.build_gate.clear()
    assert [size for size, _ in stand_in.calls] == [(128, 128), (192, 192)]


def test_what_a_stand_in_cannot_prepare_costs_those_alone_that_need_it(make, restorer, handler):
    stand_in, tried = FakeRestorer("torch-cpu"), []
    prepare = stand_in.prepare

    def limited(height, width, outputs, on_progress=None):
        tried.append((height, width))
        if height > 100:
            raise RuntimeError("no memory left")
        prepare(height, width, outputs, on_progress)

    stand_in.prepare = limited
    restorer.build_gate.clear()
    options = Options(serve_while_building=True, on_failure=OnFailure.PASSTHROUGH)
    pipeline = make("front", "rear", make_stand_in=lambda: stand_in, options=lambda: options)
    for number in range(4):
        pipeline.submit("rear", (number, 128, 128))
        pipeline.submit("front", (number, *SIZE))
        handler.wait_for(lambda number=number: len(handler.published) == 2 * number + 2)
    ways = {name: each.counts.ways for name, each in pipeline.snapshot().items()}
    assert ways["front"][Way.RESTORED] == 4 and ways["rear"][Way.PASSED_THROUGH] == 4
    assert tried.count((128, 128)) == 1 and tried.count(SIZE) == 1
    assert {text for _, _, text in handler.problems} == {"no memory left"}


def test_a_subscriber_that_leaves_stalls_no_stream_that_a_stand_in_serves(make, restorer, handler):
    stand_in = FakeRestorer("torch-cpu")
    restorer.build_gate.clear()
    handler.outputs = BOTH
    options = Options(serve_while_building=True)
    pipeline = make(make_stand_in=lambda: stand_in, options=lambda: options)
    pipeline.submit("front", (0, *SIZE))
    handler.wait_for(lambda: handler.published)
    handler.outputs = IMAGE
    stand_in.build_gate.clear()
    pipeline.submit("front", (1, *SIZE))
    handler.wait_for(lambda: handler.published == [("front", 0, BOTH), ("front", 1, IMAGE)])


def test_frames_that_wait_already_are_served_when_a_stand_in_may(make, restorer, handler):
    may_serve = False
    restorer.build_gate.clear()
    pipeline = make(
        make_stand_in=lambda: FakeRestorer("torch-cpu"),
        options=lambda: Options(serve_while_building=may_serve, queue_length=9),
    )
    pipeline.submit("front", (0, *SIZE))
    assert restorer.building.acquire(timeout=PATIENCE)
    wait_until_idle(pipeline)
    may_serve = True
    pipeline.submit("front", (1, *SIZE))  # not the one whose turn it is
    handler.wait_for(lambda: len(handler.published) == 2)


def test_a_stand_in_that_no_frame_needs_any_more_is_given_back(make, restorer, handler, monkeypatch):
    monkeypatch.setattr(stand_in_module, "KEPT_S", 0.2)
    made = []

    def make_stand_in():
        made.append(FakeRestorer("torch-cpu"))
        return made[-1]

    restorer.build_gate.clear()
    pipeline = make(make_stand_in=make_stand_in, options=lambda: Options(serve_while_building=True))
    for number in range(2):  # the second stand-in is made for the second frame
        pipeline.submit("front", (number, *SIZE))
        handler.wait_for(lambda number=number: len(handler.published) == number + 1)
        eventually(lambda: made[-1].closed)
    assert [stand_in.closed for stand_in in made] == [True, True] and not restorer.closed
    assert handler.published == [("front", 0, IMAGE), ("front", 1, IMAGE)]


def test_what_a_waiting_camera_wants_is_built_before_what_nobody_sends_any_more(make, restorer, handler):
    restorer.build_gate.clear()
    pipeline = make("front", "rear")
    pipeline.submit("rear", (0, 128, 128))
    assert restorer.building.acquire(timeout=PATIENCE)
    for height in (130, 140, 150, 160):  # a camera that is being set up
        pipeline.submit("front", (height, height, 128))
        wait_until_idle(pipeline)
    restorer.build_gate.set()
    handler.wait_for(lambda: ("front", 160, IMAGE) in handler.published)
    assert [size for size, _ in restorer.builds] == [(128, 128), (160, 128)]


def test_what_a_waiting_camera_wants_is_built_before_what_was_only_asked_for(make, restorer, handler):
    restorer.build_gate.clear()
    pipeline = make("front", "rear")
    for side in (128, 192, 256):
        pipeline.build((side, side), IMAGE)
    assert restorer.building.acquire(timeout=PATIENCE)
    for camera, number in (("rear", 0), ("front", 1), ("rear", 2)):  # whose newer frame waits no less long
        size = {"front": SIZE, "rear": (80, 80)}[camera]
        pipeline.submit(camera, (number, *size))
        wait_until_idle(pipeline)
    restorer.build_gate.set()
    handler.wait_for(lambda: len(handler.published) == 2)
    assert pipeline.wait_until_built(PATIENCE)
    sizes = [size for size, _ in restorer.builds]
    assert sizes == [(128, 128), (80, 80), SIZE, (192, 192), (256, 256)]


def test_what_a_waiting_camera_wants_is_built_before_more_outputs_of_one_that_is_served(
    make, restorer, handler
):
    pipeline = built(make("front", "rear"))
    assert restorer.building.acquire(timeout=PATIENCE)
    restorer.build_gate.clear()
    pipeline.build((192, 192), IMAGE)
    assert restorer.building.acquire(timeout=PATIENCE)
    handler.outputs_of["front"] = BOTH
    pipeline.submit("front", (0, *SIZE))  # served, without its depth
    handler.wait_for(lambda: handler.published == [("front", 0, IMAGE)])
    pipeline.submit("rear", (1, 128, 128))
    wait_until_idle(pipeline)
    restorer.build_gate.set()
    assert pipeline.wait_until_built(PATIENCE)
    assert [size for size, _ in restorer.builds] == [SIZE, (192, 192), (128, 128), SIZE]


def test_any_finished_build_of_its_size_wakes_a_waiting_frame(make, restorer, handler):
    restorer.build_gate.clear()
    pipeline = make()
    pipeline.build(SIZE, BOTH)
    assert restorer.building.acquire(timeout=PATIENCE)
    pipeline.submit("front", (0, *SIZE))  # wants the image alone, which is not being built
    wait_until_idle(pipeline)
    built_image = threading.Event()
    prepare = restorer.prepare

    def second(height, width, outputs, on_progress=None):
        assert built_image.wait(PATIENCE)
        prepare(height, width, outputs, on_progress)

    restorer.prepare = second
    restorer.build_gate.set()
    handler.wait_for(lambda: handler.published)
    built_image.set()


def test_a_camera_that_waits_for_one_size_is_served_when_it_sends_another(make, restorer, handler):
    pipeline = built(make())
    assert restorer.building.acquire(timeout=PATIENCE)
    restorer.build_gate.clear()
    pipeline.submit("front", (0, 128, 128))
    assert restorer.building.acquire(timeout=PATIENCE)
    pipeline.submit("front", (1, *SIZE))
    handler.wait_for(lambda: handler.published == [("front", 1, IMAGE)])


def test_a_graph_that_gave_way_is_compiled_by_the_builder_and_the_frames_wait(make, restorer, handler):
    pipeline = built(make())
    restorer.made.clear()  # it held too many
    pipeline.submit("front", (0, *SIZE))
    handler.wait_for(lambda: handler.published)
    assert restorer.builds == [(SIZE, IMAGE)] * 2
    assert pipeline.health.rebuilt == 1


def test_failed_sizes_are_not_remembered_without_end(make, restorer, handler):
    restorer.fail_builds = RuntimeError("no tactic")
    pipeline = make()
    for extra in range(builds.KEPT + 10):
        pipeline.build((100 + extra, 100), IMAGE)
    assert not pipeline.wait_until_built(PATIENCE)
    assert len(pipeline.failed_builds) == builds.KEPT


def test_a_long_or_wild_text_of_an_error_is_told_short_and_printable(make, handler):
    pipeline = built(make())
    pipeline.submit("front", ImageError("\x1b[2J\0" + "x" * 1_000_000))
    handler.wait_for(lambda: handler.problems)
    pipeline.clear()
    told = pipeline.snapshot()["front"].last_problems[Problem.BAD_INPUT]
    assert len(told) < 3000 and told.isprintable()


def held(pipeline: Pipeline, restorer: FakeRestorer, frames: int) -> None:
    """Submit frames while the first is in the network's hands, then let them all go."""
    restorer.gate.clear()
    pipeline.submit("front", (0, *SIZE))
    assert restorer.working.acquire(timeout=PATIENCE)
    for number in range(1, frames):
        pipeline.submit("front", (number, *SIZE))
    restorer.gate.set()


def test_with_a_queue_every_frame_is_processed_in_its_turn(make, restorer, handler):
    pipeline = built(make(options=lambda: Options(queue_length=8)))
    held(pipeline, restorer, 9)
    handler.wait_for(lambda: len(handler.published) == 9)
    assert [number for _, number, _ in handler.published] == list(range(9))
    wait_until_idle(pipeline)
    assert pipeline.snapshot()["front"].counts.dropped == 0


def test_a_full_queue_drops_its_oldest_and_counts_it(make, restorer, handler):
    pipeline = built(make(options=lambda: Options(queue_length=3)))
    held(pipeline, restorer, 10)
    handler.wait_for(lambda: len(handler.published) == 4)
    assert [number for _, number, _ in handler.published] == [0, 7, 8, 9]
    wait_until_idle(pipeline)
    assert pipeline.snapshot()["front"].counts.dropped == 6


def test_frames_of_several_sizes_that_queue_for_their_builds_keep_their_order(make, restorer, handler):
    restorer.build_gate.clear()
    pipeline = make(options=lambda: Options(queue_length=10))
    for number in range(8):
        pipeline.submit("front", (number, 72 + 8 * (number % 3), 96))
    assert restorer.building.acquire(timeout=PATIENCE)
    assert handler.published == []
    restorer.build_gate.set()
    handler.wait_for(lambda: len(handler.published) == 8)
    assert [number for _, number, _ in handler.published] == list(range(8))


def test_a_long_queue_of_one_camera_does_not_keep_another_waiting(make, restorer, handler):
    pipeline = built(make("front", "rear", options=lambda: Options(queue_length=20)))
    restorer.gate.clear()
    for number in range(12):
        pipeline.submit("front", (number, *SIZE))
    pipeline.submit("rear", (100, *SIZE))
    restorer.gate.set()
    handler.wait_for(lambda: len(handler.published) == 13)
    assert ("rear", 100, IMAGE) in handler.published[:3]


def test_what_queues_is_dropped_and_counted_when_the_pipeline_is_cleared(make, restorer, handler):
    pipeline = make(options=lambda: Options(queue_length=5))
    restorer.build_gate.clear()
    for number in range(4):
        pipeline.submit("front", (number, *SIZE))
    assert restorer.building.acquire(timeout=PATIENCE)
    pipeline.clear()
    counts = pipeline.snapshot()["front"].counts
    assert (counts.received, counts.dropped, counts.published) == (4, 4, 0)
    restorer.build_gate.set()


def test_while_it_is_dry_frames_go_out_as_they_came_and_the_network_looks_now_and_then(
    make, restorer, handler, monkeypatch
):
    now = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    pipeline = built(make(options=lambda: Options(bypass_when_dry=True)))
    restorer.streak_light, restorer.extinction = 1e-4, 1e-5

    def send(number: int) -> int:
        now[0] += 0.1
        pipeline.submit("front", (number, *SIZE))
        handler.wait_for(lambda: len(handler.published) == number + 1)
        return int(handler.images[-1].max())

    assert [send(number) for number in range(20)] == [10] * 20, "not dry for long enough yet"
    now[0] += 5
    seen = len(restorer.calls)
    assert [send(number) for number in range(20, 40)] == [0] * 20
    assert 2 <= len(restorer.calls) - seen <= 6
    wait_until_idle(pipeline)
    snapshot = pipeline.snapshot()["front"]
    assert snapshot.dry and snapshot.last_way is Way.BYPASSED and snapshot.counts.ways[Way.BYPASSED] == 20
    restorer.streak_light = streak_light_of(0.5)
    wet = [send(number) for number in range(40, 60)]
    assert wet[-10:] == [10] * 10


@pytest.mark.parametrize("trouble", ["recompiled", "does not compile", "failed", "raises"])
def test_a_dry_camera_goes_on_while_the_network_cannot_look_but_not_for_ever(
    make, restorer, handler, monkeypatch, trouble
):
    now = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    pipeline = built(make(options=lambda: Options(bypass_when_dry=True)))
    restorer.streak_light, restorer.extinction = 1e-4, 1e-5
    for number in range(2):
        now[0] += 4
        pipeline.submit("front", (number, *SIZE))
        handler.wait_for(lambda n=number: len(handler.published) == n + 1)
    wait_until_idle(pipeline)
    assert pipeline.snapshot()["front"].dry
    if trouble == "raises":
        restorer.fail_frames = RuntimeError("CUDA error 719")
    else:
        restorer.made.clear()  # gave way to others
        restorer.build_gate.clear()
    if trouble == "does not compile":
        restorer.fail_builds = RuntimeError("out of memory")
        restorer.build_gate.set()
    elif trouble == "failed":
        with pipeline._state.changed:
            pipeline._state.fail("it hangs")
    for number in range(2, 12):
        now[0] += 0.9
        pipeline.submit("front", (number, *SIZE))
        handler.wait_for(lambda n=number: len(handler.published) == n + 1)
        assert int(handler.images[-1].max()) == 0, "as it came"
    now[0] += 2  # the last look is too old to go by
    before = len(handler.problems)
    pipeline.submit("front", (12, *SIZE))
    if trouble == "recompiled":
        restorer.build_gate.set()
        handler.wait_for(lambda: len(handler.published) == 13)
    else:
        handler.wait_for(lambda: len(handler.problems) > before)
        assert len(handler.published) == 12


def test_a_build_that_nobody_wants_any_more_is_told_of_no_longer(make, restorer, handler, monkeypatch):
    pipeline = built(make())
    restorer.fail_builds = RuntimeError("out of memory")
    handler.outputs = BOTH
    pipeline.submit("front", (0, *SIZE))
    handler.wait_for(lambda: handler.problems)
    handler.outputs = IMAGE
    assert pipeline.failed_builds == ["96x72: out of memory"]
    later = time.perf_counter() + failures.RETRY_AFTER_S + failures.UNWANTED_AFTER_S + 1
    monkeypatch.setattr(time, "perf_counter", lambda: later)
    assert pipeline.failed_builds == []


def test_a_build_ahead_that_failed_is_told_of_until_it_succeeds(make, restorer, handler, monkeypatch):
    pipeline = make()
    restorer.fail_builds = RuntimeError("out of memory")
    pipeline.build((80, 96), IMAGE)
    handler.wait_for(lambda: handler.problems)
    later = time.perf_counter() + failures.RETRY_AFTER_S + failures.UNWANTED_AFTER_S + 1
    monkeypatch.setattr(time, "perf_counter", lambda: later)
    assert pipeline.failed_builds == ["96x80: out of memory"]


def test_the_focal_length_reaches_the_network_and_is_told(make, restorer, handler, monkeypatch):
    monkeypatch.setattr(type(handler.of("front")), "focal_px", lambda self, message, size: 0.5 * size[1])
    pipeline = built(make())
    pipeline.submit("front", (0, *SIZE))
    handler.wait_for(lambda: handler.published)
    wait_until_idle(pipeline)
    assert restorer.focal_lengths == [48.0]
    assert pipeline.snapshot()["front"].focal_px == 48.0


def test_a_bad_image_is_counted_and_the_next_good_one_comes_out(make, handler):
    pipeline = built(make())
    pipeline.submit("front", ImageError("cut on its way"))
    handler.wait_for(lambda: handler.problems)
    pipeline.submit("front", (1, *SIZE))
    handler.wait_for(lambda: handler.published)
    assert handler.problems == [("front", Problem.BAD_INPUT, "cut on its way")]
    snapshot = pipeline.snapshot()["front"]
    assert snapshot.counts.problems[Problem.BAD_INPUT] == snapshot.recent_problems[Problem.BAD_INPUT] == 1
    assert snapshot.last_problems == {Problem.BAD_INPUT: "bad input: cut on its way"}


def test_a_network_that_raises_is_reported_and_the_next_frame_is_tried(make, restorer, handler):
    pipeline = built(make())
    restorer.fail_frames = RuntimeError("out of memory")
    pipeline.submit("front", (0, *SIZE))
    handler.wait_for(lambda: handler.problems)
    restorer.fail_frames = None
    pipeline.submit("front", (1, *SIZE))
    handler.wait_for(lambda: handler.published)
    assert handler.problems == [("front", Problem.FAILED, "out of memory")]


def test_a_failed_build_is_reported_and_tried_again(make, restorer, handler, monkeypatch):
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.0)
    restorer.fail_builds = RuntimeError("no tactic")
    pipeline = make()
    pipeline.submit("front", (0, *SIZE))
    handler.wait_for(lambda: handler.problems)
    assert (None, Problem.BUILD, "no tactic") in handler.problems
    restorer.fail_builds = None
    pipeline.submit("front", (1, *SIZE))
    handler.wait_for(lambda: handler.published)
    assert handler.published[-1] == ("front", 1, IMAGE)


def test_frames_that_no_build_can_serve_are_counted_and_do_not_start_builds_without_end(
    make, restorer, handler
):
    restorer.fail_builds = RuntimeError("no tactic")
    pipeline = make()
    for number in range(3):
        pipeline.submit("front", (number, *SIZE))
        handler.wait_for(
            lambda number=number: handler.problems.count(("front", Problem.BUILD, "no tactic")) == number + 1
        )
    assert len(restorer.builds) == 1
    assert pipeline.failed_builds == ["96x72: no tactic"]
    assert not pipeline.wait_until_built(PATIENCE)


def test_a_build_stays_failed_until_it_is_tried_again_with_success(make, restorer, handler, monkeypatch):
    restorer.fail_builds = RuntimeError("no tactic")
    pipeline = make()
    pipeline.build(SIZE, IMAGE)
    assert not pipeline.wait_until_built(PATIENCE)
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.0)
    assert pipeline.failed_builds == ["96x72: no tactic"]
    restorer.fail_builds = None
    pipeline.submit("front", (0, *SIZE))
    handler.wait_for(lambda: handler.published)
    assert pipeline.failed_builds == []


def test_a_size_that_no_network_takes_is_not_held_against_the_runtime_for_ever(make, monkeypatch):
    pipeline = make()
    pipeline.build((32, 32), IMAGE)
    assert not pipeline.wait_until_built(PATIENCE)
    assert len(pipeline.failed_builds) == 1
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.0)
    assert pipeline.failed_builds == []


def test_a_size_that_no_network_takes_is_the_images_fault(make, handler):
    pipeline = make()
    pipeline.submit("front", (0, 32, 32))
    handler.wait_for(lambda: handler.problems)
    assert [problem for _, problem, _ in handler.problems] == [Problem.BAD_INPUT]
    assert pipeline.snapshot()["front"].counts.problems[Problem.BAD_INPUT] == 1


def test_the_size_may_change_in_mid_stream(make, handler):
    pipeline = make()
    for number, size in enumerate((SIZE, (128, 64), SIZE)):
        pipeline.submit("front", (number, *size))
        handler.wait_for(lambda number=number: len(handler.published) == number + 1)
    assert not handler.problems


@pytest.fixture
def ticking(monkeypatch):
    """A clock that goes on by a millisecond whenever it is read."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: 1e-3 * next(ticks))


def test_stage_times_add_up_to_the_time_from_message_in_to_message_out(make, handler):
    pipeline = built(make())
    pipeline.submit("front", (0, *SIZE))
    handler.wait_for(lambda: handler.published)
    pipeline.clear()
    stages = pipeline.snapshot()["front"].stages
    parts = sum(stages[stage].median for stage in Stage if stage is not Stage.TOTAL)
    assert parts == pytest.approx(stages[Stage.TOTAL].median)


def test_a_snapshot_tells_the_rates_and_the_distribution_of_every_stage(make, handler, ticking):
    pipeline = built(make())
    for number in range(4):
        pipeline.submit("front", (number, *SIZE))
        handler.wait_for(lambda number=number: len(handler.published) == number + 1)
    eventually(lambda: pipeline.snapshot()["front"].counts.published == 4, "counts")
    snapshot = pipeline.snapshot()["front"]
    assert set(snapshot.stages) == set(Stage)
    total = snapshot.stages[Stage.TOTAL]
    assert 0 < total.minimum <= total.median <= total.p95 <= total.p99 <= total.maximum
    assert total.count == 4
    assert snapshot.image_age.median == 0.5
    assert snapshot.rate_in == snapshot.rate_out == 4


def test_old_frames_leave_the_window_but_stay_counted(make, handler, monkeypatch):
    pipeline = built(make())
    pipeline.submit("front", (0, *SIZE))
    handler.wait_for(lambda: handler.published)
    pipeline.clear()
    monkeypatch.setattr(frame_statistics, "WINDOW_S", 1e-9)
    snapshot = pipeline.snapshot()["front"]
    assert snapshot.counts.published == 1 and not snapshot.stages


def test_clear_drops_what_waits_and_returns_when_the_worker_is_idle(make, restorer, handler):
    restorer.build_gate.clear()
    pipeline = make()
    pipeline.submit("front", (0, *SIZE))
    assert restorer.building.acquire(timeout=PATIENCE)
    pipeline.clear()
    restorer.build_gate.set()
    assert pipeline.wait_until_built(PATIENCE)
    assert not handler.published
    assert pipeline.snapshot()["front"].counts.dropped == 1


def test_a_frame_that_is_put_back_to_wait_for_a_build_while_frames_are_cleared_is_dropped_too(
    make, restorer, handler
):
    restorer.build_gate.clear()
    pipeline = make()
    in_hand, go_on = threading.Event(), threading.Event()

    def prepared(height, width):
        in_hand.set()
        assert go_on.wait(PATIENCE)
        return set()

    restorer.prepared = prepared
    pipeline.submit("front", (0, *SIZE))
    assert in_hand.wait(PATIENCE)
    pipeline.submit("front", (1, *SIZE))
    waits = threading.Event()
    wait_for = pipeline._state.changed.wait_for

    def wait_for_worker(*arguments):
        waits.set()
        return wait_for(*arguments)

    pipeline._state.changed.wait_for = wait_for_worker
    clearing = threading.Thread(target=pipeline.clear)
    clearing.start()
    assert waits.wait(PATIENCE)
    go_on.set()
    clearing.join(PATIENCE)
    assert pipeline._state.next_key() is None, "nothing is left to be compiled for"
    assert pipeline.snapshot()["front"].counts.dropped == 2


def test_closing_during_a_build_gives_up_after_the_time_allowed_and_closes_the_restorer_when_it_has_ended(
    make, restorer, handler
):
    closed = threading.Event()
    restorer.close = closed.set
    restorer.build_gate.clear()
    pipeline = make()
    pipeline.submit("front", (0, *SIZE))
    assert restorer.building.acquire(timeout=PATIENCE)
    assert not pipeline.close(timeout=0.05)
    assert not closed.is_set()
    restorer.build_gate.set()
    assert closed.wait(PATIENCE)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_whatever_a_compiler_raises_the_next_size_is_compiled(make, restorer, handler, error):
    pipeline = make()
    restorer.fail_builds = error
    pipeline.build(SIZE, IMAGE)
    handler.wait_for(lambda: handler.problems)
    assert pipeline.building is None
    restorer.fail_builds = None
    pipeline.build((144, 192), IMAGE)
    handler.wait_for(lambda: handler.built)


@pytest.mark.parametrize("cause", [None, "itself", "another"])
def test_a_failed_build_keeps_nothing_of_what_it_had_made(make, restorer, handler, cause):
    class DeviceMemory:
        pass

    memory = []

    def prepare(height, width, outputs, on_progress=None, meanwhile=None):
        held = DeviceMemory()
        memory.append(weakref.ref(held))
        error = RuntimeError("out of memory")
        if cause is None:
            raise error
        try:
            inner = DeviceMemory()
            memory.append(weakref.ref(inner))
            raise ValueError("no room")
        except ValueError as first:
            raise error from error if cause == "itself" else first

    restorer.prepare = prepare
    pipeline = make()
    pipeline.build(SIZE, IMAGE)
    handler.wait_for(lambda: handler.problems)
    assert pipeline.failed_builds == ["96x72: out of memory"]
    gc.collect()
    assert memory and not [reference for reference in memory if reference() is not None]


def test_a_distribution_tells_its_quantiles():
    assert Distribution.of([]) is None
    distribution = Distribution.of([float(value) for value in range(101)])
    assert (distribution.count, distribution.minimum, distribution.maximum) == (101, 0, 100)
    assert (distribution.median, distribution.p95, distribution.p99) == pytest.approx((50, 95, 99))
