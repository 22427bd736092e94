"""Frames of several cameras in one call: only where it pays, never at the cost of a frame or of a turn."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from pipeline_fakes import FakeHandler, FakeRestorer, wait_until_idle
from waiting import PATIENCE

from rain_removal_ros import rain_monitor
from rain_removal_ros.errors import ImageError, NotPreparedError
from rain_removal_ros.pipeline import OnFailure, Options, Pipeline, Problem, Way, batches, failures
from rain_removal_ros.pipeline.frames import Plan
from rain_removal_ros.pipeline.recovery import FAILURES_IN_A_ROW
from rain_removal_ros.runtime import BatchTrial, Output

SIZE, OTHER_SIZE = (72, 96), (128, 128)
IMAGE = frozenset({Output.IMAGE})
BOTH = IMAGE | {Output.INVERSE_DEPTH}
FIRST = "camera0"


class Bench:
    """A pipeline of several cameras; a frame of the first keeps the worker busy while others' come."""

    def __init__(self, cameras: int, ratios: dict[int, float], **options):
        self.names = [f"camera{number}" for number in range(cameras)]
        self.handler = FakeHandler()
        self.ratios = ratios
        self.options = Options(**options)
        self.restorers: list[FakeRestorer] = []
        self.pipeline = Pipeline(
            {name: self.handler.of(name) for name in self.names},
            self._make(),
            self.handler,
            options=lambda: self.options,
            make_restorer=self._make,
        )
        self.number = 0

    def _make(self) -> FakeRestorer:
        self.restorers.append(FakeRestorer())
        self.restorers[-1].batch_ratios = self.ratios
        return self.restorers[-1]

    @property
    def restorer(self) -> FakeRestorer:
        return self.restorers[-1]

    def send(self, name: str, *message) -> None:
        """Submit a frame of this camera, of the usual size or the message that is given."""
        self.number += 1
        self.pipeline.submit(name, message[0] if message else (self.number, *SIZE))

    def hold(self) -> None:
        """Have the worker busy with a frame of the first camera until the gate is opened."""
        while self.restorer.working.acquire(blocking=False):
            pass
        self.restorer.gate.clear()
        self.send(FIRST)
        assert self.restorer.working.acquire(timeout=PATIENCE)

    def wait_together(self, *names: str, **messages) -> None:
        """Have frames of the other cameras, or of these, wait behind one of the first."""
        self.hold()
        for name in names or self.names[1:]:
            self.send(name, *([messages[name]] if name in messages else []))

    def burst(self, *names: str, **messages) -> None:
        """Frames that wait together; returns when something has become of each, and then of a trial."""
        self.wait_until_idle()
        self.restorer.batch_gate.clear()
        restorer, before = self.restorer, self.ended()
        self.wait_together(*names, **messages)
        self.restorer.gate.set()
        changed = self.pipeline._state.changed
        with changed:
            expected = before + 1 + len(names or self.names[1:])
            assert changed.wait_for(lambda: self.ended() == expected, PATIENCE)
        restorer.batch_gate.set()
        self.wait_until_idle()

    def ended(self) -> int:
        """How many frames something has become of."""
        counts = [snapshot.counts for snapshot in self.pipeline.snapshot().values()]
        return sum(c.published + c.dropped + c.idle + sum(c.problems.values()) for c in counts)

    def wait_until_idle(self) -> None:
        """Wait until neither the worker nor the builder has anything to do."""
        wait_until_idle(self.pipeline, builder=True)

    def one_by_one(self) -> None:
        """A frame of every camera, each when nothing else waits."""
        for name in self.names:
            self.send(name)
            self.handler.wait_for(lambda name=name: self.published()[name])
            self.wait_until_idle()

    def ready(self) -> None:
        """Every camera has been served, and what pays has been tried."""
        self.one_by_one()
        self.burst()
        self.restorer.together.clear()
        self.handler.published.clear()
        self.handler.images.clear()

    def hold_a_trial(self) -> None:
        """Have a trial go on without end, after the frames that it came of have gone out."""
        self.one_by_one()
        self.restorer.batch_gate.clear()
        self.wait_together()
        self.restorer.gate.set()
        assert self.restorer.trying.acquire(timeout=PATIENCE)
        self.handler.wait_for(lambda: self.published() == self.each(2))

    def published(self) -> Counter:
        return Counter(camera for camera, _, _ in self.handler.published)

    def tried(self) -> list[int]:
        return [frames for _, _, frames in self.restorer.tried]

    def each(self, count: int = 1) -> dict[str, int]:
        return dict.fromkeys(self.names, count)


@pytest.fixture
def bench():
    made = []

    def make(cameras: int = 5, ratios: dict[int, float] | None = None, **options) -> Bench:
        made.append(Bench(cameras, {4: 0.6} if ratios is None else ratios, **options))
        return made[-1]

    yield make
    for each in made:
        for restorer in each.restorers:
            restorer.open_gates()
        assert each.pipeline.close(PATIENCE)


def test_frames_that_wait_together_go_in_one_call_once_it_has_been_seen_to_pay(bench):
    bench = bench()
    bench.one_by_one()
    bench.burst()
    assert bench.tried() == [4] and not bench.restorer.together
    calls = len(bench.restorer.calls)
    bench.burst()
    assert bench.restorer.together == [4]
    assert len(bench.restorer.calls) == calls + 1, "the one that kept the worker busy"
    assert bench.published() == bench.each(3)
    assert all((image == 10).all() for image in bench.handler.images)
    snapshots = bench.pipeline.snapshot()
    assert [snapshots[name].counts.together for name in bench.names] == [0, 1, 1, 1, 1]
    assert bench.pipeline.batching == ["4 x 96x72 image: 0.60 of the time"]
    assert "4 x 96x72 image" in str(bench.handler.built[-1])


def test_what_does_not_pay_is_tried_once_and_never_done(bench):
    bench = bench(ratios={})
    bench.one_by_one()
    for _ in range(4):
        bench.burst()
    assert bench.tried() == [4, 2], "the smaller one, as the larger does not pay"
    assert not bench.restorer.together and not bench.handler.problems
    assert bench.pipeline.batching == [f"{n} x 96x72 image: 1.00 of the time, not used" for n in (4, 2)]


@pytest.mark.parametrize(
    ("ratios", "together"),
    [
        ({8: 0.5}, [8]),
        ({8: 0.6, 4: 0.55}, [4, 4]),
        ({8: 0.6, 4: 0.63, 2: 0.7}, [2, 2, 2, 2]),
        ({8: 0.563, 4: 0.626, 2: 0.751}, []),
        ({8: float("inf"), 4: float("inf"), 2: float("inf")}, []),
    ],
    ids=str,
)
def test_eight_frames_go_together_in_the_number_that_pays(bench, ratios, together):
    bench = bench(9, ratios)
    bench.one_by_one()
    for _ in range(3):
        bench.burst()
    bench.restorer.together.clear()
    bench.burst()
    assert bench.restorer.together == together


def test_where_reading_takes_longer_than_a_call_saves_frames_go_one_by_one(bench):
    bench = bench(9, {8: 0.5})
    bench.one_by_one()
    for _ in range(3):
        bench.burst()
    assert 8 in bench.restorer.together
    bench.restorer.together.clear()
    bench.handler.reading_s = 0.03  # a call for eight takes 0.4 s, one for a single image 0.1
    bench.burst()
    assert not bench.restorer.together
    bench.handler.reading_s = 0.0
    bench.burst()
    assert bench.restorer.together == [8]


@pytest.mark.parametrize("reading_s", [0.0, 0.0005, 0.002, 0.01])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("frames", [2, 4, 8])
def test_frames_go_together_where_they_come_out_no_later_on_average(frames, ratio, reading_s):
    trial = BatchTrial(frames, ratio, call_s=0.01)
    alone_s = trial.call_s / ratio / frames
    one_by_one = np.mean([(place + 1) * (reading_s + alone_s) for place in range(frames)])
    assert trial.pays_after(reading_s) == (frames * reading_s + trial.call_s <= one_by_one)
    if reading_s == 0:
        assert trial.pays == (ratio <= (frames + 1) / (2 * frames))


def test_of_the_numbers_that_pay_the_quickest_is_taken(bench):
    bench = bench(ratios={4: 0.6, 2: 0.5})
    bench.one_by_one()
    bench.burst("camera1", "camera2")
    bench.burst()
    bench.restorer.together.clear()
    bench.burst()
    assert bench.tried() == [2, 4]
    assert bench.restorer.together == [2, 2]


def test_frames_beyond_the_number_that_pays_go_alone(bench):
    bench = bench(7)
    bench.ready()
    calls = len(bench.restorer.calls)
    bench.burst()
    assert bench.restorer.together == [4]
    assert len(bench.restorer.calls) == calls + 3
    assert bench.published() == bench.each()


def test_no_frame_waits_for_others(bench):
    bench = bench()
    bench.ready()
    bench.send("camera3")
    bench.handler.wait_for(lambda: bench.published() == {"camera3": 1})


def test_frames_of_one_camera_never_go_together(bench):
    bench = bench(1, {2: 0.5, 4: 0.5, 8: 0.5}, queue_length=8)
    bench.one_by_one()
    bench.hold()
    for _ in range(8):
        bench.send(FIRST)
    bench.restorer.gate.set()
    bench.handler.wait_for(lambda: bench.published()[FIRST] == 10)
    assert not bench.restorer.tried and not bench.restorer.together


def test_it_can_be_switched_off_while_it_runs(bench):
    bench = bench(batching=False)
    bench.one_by_one()
    bench.burst()
    assert not bench.restorer.tried and bench.pipeline.batching == ["off"]
    bench.options = Options(batching=True)
    bench.burst()
    bench.burst()
    assert bench.restorer.together == [4]
    bench.options = Options(batching=False)
    bench.burst()
    assert bench.restorer.together == [4]


def test_a_call_that_takes_long_beside_the_time_after_which_one_hangs_is_not_made(bench):
    bench = bench()
    bench.ready()
    bench.options = Options(inference_timeout_s=0.03)
    assert bench.options.longest_batch_s < 0.01
    plan, worker = Plan(bench.restorer, SIZE, IMAGE, bench.options), bench.pipeline._watchdog.worker
    assert worker._frames_a_call(plan, 4) == 1
    assert worker._frames_a_call(replace(plan, options=Options()), 4) == 4


COMPANIONS = {
    "unreadable": (ImageError("cut"), None, Problem.BAD_INPUT),
    "breaks the reader": (MemoryError("no room"), None, Problem.FAILED),
    "too small": ((7, 32, 32), None, Problem.BAD_INPUT),
    "another size": ((7, *OTHER_SIZE), None, None),
    "other outputs": ((7, *SIZE), BOTH, None),
    "nobody wants it": ((7, *SIZE), frozenset(), None),
}


@pytest.mark.parametrize("place", [1, 2, 4])
@pytest.mark.parametrize("companion", COMPANIONS)
def test_a_frame_that_turns_out_to_be_another_is_handled_as_if_alone(bench, companion, place):
    bench = bench(ratios={4: 0.6, 2: 0.7})
    message, outputs, problem = COMPANIONS[companion]
    bench.pipeline.build(OTHER_SIZE, IMAGE)
    bench.pipeline.build(SIZE, BOTH)
    bench.one_by_one()
    bench.burst()
    bench.burst("camera1", "camera2")
    bench.handler.published.clear()
    bench.restorer.together.clear()
    odd = f"camera{place}"
    if outputs is not None:
        bench.handler.outputs_of[odd] = outputs
    bench.burst(**{odd: message})
    published, snapshot = bench.published(), bench.pipeline.snapshot()[odd]
    assert bench.restorer.together == [2], "of the three that are left"
    assert {**published, odd: 1} == bench.each()
    if problem is not None:
        assert snapshot.counts.problems[problem] == 1 and not published[odd]
        assert [(camera, kind) for camera, kind, _ in bench.handler.problems] == [(odd, problem)]
    elif outputs == frozenset():
        assert snapshot.counts.idle == 1 and not published[odd]
    else:
        assert (odd, 7, outputs or IMAGE) in bench.handler.published and not bench.handler.problems


def test_a_frame_whose_new_output_is_still_being_built_goes_along_without_it(bench):
    bench = bench()
    bench.ready()
    bench.restorer.build_gate.clear()
    bench.handler.outputs_of["camera3"] = BOTH
    bench.wait_together()
    bench.restorer.gate.set()
    bench.handler.wait_for(lambda: bench.published() == bench.each())
    assert bench.restorer.together == [4]
    assert all(outputs == IMAGE for _, _, outputs in bench.handler.published)


def test_a_frame_of_a_size_that_is_not_built_waits_for_its_build_while_the_others_go_on(bench):
    bench = bench(ratios={4: 0.6, 2: 0.7})
    bench.ready()
    bench.restorer.build_gate.clear()
    bench.wait_together(camera2=(7, *OTHER_SIZE))
    bench.restorer.gate.set()
    bench.handler.wait_for(lambda: len(bench.handler.published) == 4)
    assert not bench.published()["camera2"]
    bench.restorer.build_gate.set()
    bench.handler.wait_for(lambda: ("camera2", 7, IMAGE) in bench.handler.published)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA 2"), MemoryError(), SystemExit(3), NotPreparedError("gave way")], ids=repr
)
def test_where_one_call_fails_every_frame_is_restored_alone(bench, monkeypatch, error):
    bench = bench()
    bench.ready()
    bench.restorer.fail_together = error
    for _ in range(3):
        bench.burst()
    assert bench.published() == bench.each(3)
    assert bench.pipeline.health.failure is None
    gave_way = isinstance(error, NotPreparedError)
    assert bench.restorer.together == ([4] * 3 if gave_way else [4]), "it does not fail again and again"
    assert [camera for camera, _, _ in bench.handler.problems] == ([] if gave_way else [None])
    bench.restorer.fail_together = None
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.0)
    bench.burst()
    bench.restorer.together.clear()
    bench.burst()
    assert bench.restorer.together == [4], "it serves again when it has been tried again"


def test_one_result_of_several_that_cannot_be_costs_no_frame(bench):
    bench = bench()
    bench.ready()
    calls = len(bench.restorer.calls)
    bench.restorer.wrong_together = {2: {"image": np.zeros((3, 3, 3), np.uint8)}}
    bench.burst()
    assert bench.published() == bench.each()
    assert all(image.shape == (*SIZE, 3) and (image == 10).all() for image in bench.handler.images)
    assert len(bench.restorer.calls) == calls + 2, "the first one's frame, and the one that was done again"
    assert [camera for camera, _, _ in bench.handler.problems] == [None]


def test_a_call_whose_results_all_cannot_be_has_failed_once(bench):
    bench = bench()
    bench.ready()
    bench.restorer.wrong_together = {place: {"image": np.zeros((3, 3, 3), np.uint8)} for place in range(4)}
    bench.burst()
    assert bench.published() == bench.each()
    [trial] = bench.pipeline._state.batches._trials.values()
    assert trial.outcome.attempts == 1


@pytest.mark.parametrize("results", [0, 3, 5])
def test_a_call_that_gives_another_number_of_results_costs_no_frame(bench, results):
    bench = bench()
    bench.ready()
    together = bench.restorer.restore_together
    bench.restorer.restore_together = lambda *arguments: (together(*arguments) * 2)[:results]
    bench.burst()
    assert bench.published() == bench.each()
    assert "results for 4 images" in bench.handler.problems[0][2]


def test_a_restorer_that_raises_where_none_should_costs_frames_that_are_counted_and_nothing_more(bench):
    bench = bench()
    bench.ready()

    def prepared_batches(*arguments):
        raise RuntimeError("a defect")

    right, bench.restorer.prepared_batches = bench.restorer.prepared_batches, prepared_batches
    bench.burst()
    lost = sum(s.counts.problems[Problem.FAILED] for s in bench.pipeline.snapshot().values())
    assert 1 <= lost == 5 - len(bench.handler.published)
    bench.restorer.prepared_batches = right
    bench.burst()
    assert bench.restorer.together == [4]


def test_every_camera_keeps_its_own_focal_length_and_weather(bench, monkeypatch):
    bench = bench()
    bench.ready()
    camera = type(bench.handler.of(FIRST))
    monkeypatch.setattr(camera, "focal_px", lambda self, message, size: 10.0 * int(self.name[-1]))
    bench.restorer.streak_light = bench.restorer.extinction = 0.0
    bench.restorer.wrong_together = {place: {"extinction": 0.01 * (1 + place)} for place in range(4)}
    bench.restorer.focal_lengths.clear()
    bench.burst()
    assert bench.restorer.focal_lengths == [0.0, 10.0, 20.0, 30.0, 40.0]
    snapshots = [bench.pipeline.snapshot()[name] for name in bench.names[1:]]
    assert [snapshot.focal_px for snapshot in snapshots] == [10.0, 20.0, 30.0, 40.0]
    visibilities = [snapshot.weather.visibility_m for snapshot in snapshots]
    assert visibilities == pytest.approx([3.912 / (0.01 * (1 + place)) for place in range(4)], rel=1e-3)


def test_a_camera_that_sees_dry_weather_is_bypassed_among_others_that_do_not(bench, monkeypatch):
    monkeypatch.setattr(rain_monitor, "LOOK_AGAIN_S", 1000.0)
    bench = bench(bypass_when_dry=True)
    bench.ready()
    bench.pipeline._state.cameras["camera2"].watch.dry = True
    bench.burst()
    ways = {name: bench.pipeline.snapshot()[name].last_way for name in bench.names}
    assert ways == dict.fromkeys(bench.names, Way.RESTORED) | {"camera2": Way.BYPASSED}


def test_the_inference_of_a_frame_is_that_of_its_whole_call(bench):
    bench = bench()
    bench.ready()
    bench.burst()
    cameras = [bench.pipeline._state.cameras[name] for name in bench.names[1:]]
    departures = [camera.statistics.departures[-1][1] for camera in cameras]
    assert len({times.inference for times in departures}) == 1
    assert all(times.inference > 0 and times.waiting > 0 for times in departures)


def test_nothing_waits_for_a_trial(bench):
    bench = bench()
    bench.hold_a_trial()
    assert bench.pipeline.building.frames == 4
    assert bench.pipeline.wait_until_built(PATIENCE)
    bench.send("camera1")
    bench.handler.wait_for(lambda: bench.published()["camera1"] == 3)


def test_what_is_needed_is_compiled_before_anything_is_tried(bench):
    bench = bench()
    bench.one_by_one()
    bench.restorer.build_gate.clear()
    bench.pipeline.build((200, 200), IMAGE)
    bench.wait_together()
    bench.restorer.gate.set()
    bench.handler.wait_for(lambda: bench.published() == bench.each(2))
    bench.pipeline.build((300, 300), IMAGE)
    bench.restorer.build_gate.set()
    bench.wait_until_idle()
    assert [(build.size, build.frames) for build in bench.handler.built[1:]] == [
        ((200, 200), 1),
        ((300, 300), 1),
        (SIZE, 4),
    ]


@pytest.mark.parametrize(
    "error", [RuntimeError("no tactic"), SystemExit(3), NotPreparedError("no room")], ids=repr
)
def test_a_trial_that_fails_is_told_once_at_most_and_stops_no_frame(bench, monkeypatch, error):
    bench = bench()
    bench.restorer.fail_batches = error
    bench.one_by_one()
    for _ in range(3):
        bench.burst()
    told = [] if isinstance(error, NotPreparedError) else [(None, Problem.BUILD, str(error))] * 2
    assert bench.tried() == [4, 2] and bench.handler.problems == told
    assert bench.published() == bench.each(4)
    assert bench.pipeline.failed_builds == [] and bench.pipeline.wait_until_built(PATIENCE)
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.0)
    bench.burst()
    assert bench.tried() == [4, 2, 4] and bench.handler.problems == told
    bench.restorer.fail_batches = None
    bench.burst()
    bench.burst()
    assert bench.restorer.together == [4]


def test_a_trial_gives_way_to_a_size_that_somebody_waits_for_and_is_made_another_time(bench, monkeypatch):
    bench = bench()
    bench.hold_a_trial()
    bench.send(FIRST, (0, *OTHER_SIZE))
    bench.handler.wait_for(lambda: bench.published()[FIRST] == 3)
    assert not bench.restorer.batch_gate.is_set() and not bench.handler.problems
    assert bench.tried() == [4]
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.0)
    bench.restorer.batch_gate.set()
    bench.burst()
    assert bench.tried() == [4, 4]
    bench.burst()
    assert bench.restorer.together == [4]


def test_what_a_trial_said_is_tried_again_after_some_time(bench, monkeypatch):
    bench = bench(ratios={4: 1.2, 2: 1.2})
    bench.ready()
    bench.burst()
    bench.burst()
    assert bench.tried() == [4, 2]
    monkeypatch.setattr(batches, "TRIED_AGAIN_AFTER_S", 0.0)  # the machine was busy with other things
    bench.restorer.batch_ratios = {4: 0.5}
    bench.burst()
    assert bench.tried() == [4, 2, 4]
    bench.burst()
    assert bench.restorer.together == [4]
    bench.restorer.batch_ratios = {4: 1.2}  # and now it is
    bench.restorer.together.clear()
    bench.burst()
    bench.restorer.together.clear()
    bench.burst()
    assert not bench.restorer.together


def test_what_is_known_of_trials_is_bounded(bench, monkeypatch):
    monkeypatch.setattr(batches, "TRIALS_KEPT", 3)
    bench = bench()
    for width in range(100, 110):
        bench.pipeline._watchdog.builder._try_batch(((100, width), IMAGE), 2, bench.restorer)
    assert len(bench.pipeline.batching) == 3


def test_a_batch_that_gave_way_is_not_used(bench):
    bench = bench()
    bench.ready()
    bench.restorer.batches.clear()
    bench.burst()
    assert not bench.restorer.together and bench.published() == bench.each()
    assert bench.pipeline.batching[0] == "4 x 96x72 image: 0.60 of the time, not used"


def hang_together(bench: Bench) -> FakeRestorer:
    """Have a call with four frames hang until the gate of the restorer that is given back is opened."""
    bench.wait_together()
    hung = bench.restorer
    hung.together_gate.clear()
    bench.options = Options(inference_timeout_s=1.7)
    hung.gate.set()
    bench.handler.wait_for(lambda: len(bench.handler.problems) == 4)
    bench.options = Options()
    return hung


def test_when_a_call_with_several_hangs_each_is_counted_and_no_runtime_is_given_several_again(bench):
    bench = bench()
    bench.ready()
    hung = hang_together(bench)
    assert {camera for camera, _, _ in bench.handler.problems} == set(bench.names[1:])
    assert all("did not come back" in text for _, _, text in bench.handler.problems)
    bench.handler.wait_for(lambda: bench.handler.recovered)
    hung.together_gate.set()  # it comes back after all
    for _ in range(2):
        bench.burst()
    assert bench.published() == bench.each(2) | {FIRST: 3}, "the late results are never published"
    for snapshot in bench.pipeline.snapshot().values():
        counts = snapshot.counts
        assert counts.received == counts.published + counts.dropped + sum(counts.problems.values())
        assert counts.problems[Problem.FAILED] == (snapshot.camera != FIRST)
    assert len(bench.restorers) == 2 and not bench.restorer.tried
    assert bench.pipeline.batching == ["not any more: the runtime hung with it"]


def test_frames_that_were_to_follow_a_call_that_hangs_are_counted_too(bench):
    bench = bench(6)
    bench.pipeline.build(OTHER_SIZE, IMAGE)
    bench.one_by_one()
    bench.burst("camera1", "camera2", "camera3", "camera4")
    bench.ratios[2] = 0.7
    bench.burst("camera1", "camera2")
    bench.wait_together(camera2=(7, *OTHER_SIZE), camera3=(7, *OTHER_SIZE))
    bench.restorer.together_gate.clear()
    bench.options = Options(inference_timeout_s=1.7)
    bench.restorer.gate.set()
    bench.handler.wait_for(lambda: bench.handler.recovered)
    bench.options = Options()
    bench.restorers[0].together_gate.set()
    bench.wait_until_idle()
    for snapshot in bench.pipeline.snapshot().values():
        counts = snapshot.counts
        assert counts.received == counts.published + counts.dropped + sum(counts.problems.values())


def test_a_trial_that_hangs_is_not_repeated_with_the_next_runtime(bench):
    bench = bench()
    bench.hold_a_trial()
    bench.options = Options(inference_timeout_s=1.7)
    bench.restorer.gate.clear()  # as a frame that waits for a device in which the trial hangs
    bench.send("camera1")
    bench.handler.wait_for(lambda: bench.handler.recovered)
    bench.options = Options()
    for _ in range(2):
        bench.burst()
    assert len(bench.restorers) == 2 and not bench.restorer.tried


def test_a_runtime_that_is_made_anew_starts_without_and_tries_for_itself(bench):
    bench = bench()
    bench.ready()
    bench.restorer.fail_together = bench.restorer.fail_frames = RuntimeError("CUDA error 719")
    bench.burst()
    bench.handler.wait_for(lambda: bench.handler.recovered)
    lost = {name: s.counts.problems[Problem.FAILED] for name, s in bench.pipeline.snapshot().items()}
    assert lost == bench.each()
    assert bench.pipeline.batching == []
    bench.burst()
    assert bench.tried() == [4] and not bench.restorer.together
    bench.burst()
    assert bench.restorer.together == [4]


def test_with_passthrough_every_frame_of_a_failed_call_passes_through(bench):
    bench = bench(on_failure=OnFailure.PASSTHROUGH)
    bench.ready()
    bench.wait_together()
    bench.restorer.fail_together = bench.restorer.fail_frames = RuntimeError("CUDA error 719")
    bench.restorer.gate.set()
    bench.handler.wait_for(lambda: bench.published() == bench.each())
    assert all((image == 0).all() for image in bench.handler.images)


def test_no_camera_starves_beside_others_that_go_together(bench):
    bench = bench(9, {4: 0.6, 8: 0.6})
    odd, frames = "camera8", 600
    bench.pipeline.build(OTHER_SIZE, IMAGE)
    bench.one_by_one()

    def send_another(camera: str, number: int) -> None:
        if len(bench.handler.published) < frames:
            bench.pipeline.submit(camera, (number + 1, *(OTHER_SIZE if camera == odd else SIZE)))

    bench.handler.on_publish = send_another
    bench.handler.published.clear()
    bench.hold()
    for name in bench.names:
        send_another(name, 0)
    bench.restorer.gate.set()
    bench.handler.wait_for(lambda: len(bench.handler.published) >= frames)
    bench.wait_until_idle()
    counts = bench.published()
    assert 4 in bench.restorer.together
    assert max(counts.values()) - min(counts.values()) <= 2, counts
    for name in bench.names:
        places = [n for n, (camera, _, _) in enumerate(bench.handler.published[:frames]) if camera == name]
        assert max(np.diff(places)) <= 16, "never more than two turns of all the others"


def test_outputs_keep_the_order_of_the_inputs(bench):
    bench = bench(queue_length=6)
    bench.ready()
    bench.hold()
    for _ in range(6):
        for name in bench.names:
            bench.send(name)
    bench.restorer.gate.set()
    bench.handler.wait_for(lambda: len(bench.handler.published) == 31)
    assert bench.restorer.together.count(4) >= 5
    for name in bench.names:
        numbers = [number for camera, number, _ in bench.handler.published if camera == name]
        assert numbers == sorted(numbers) and len(numbers) == 6 + (name == FIRST)


def several_in_hand(bench: Bench) -> None:
    """Have a call with four frames under way until `together_gate` is opened."""
    bench.ready()
    bench.wait_together()
    bench.restorer.together_gate.clear()
    bench.restorer.gate.set()
    assert bench.restorer.working.acquire(timeout=PATIENCE)
    assert bench.restorer.together == [4]


def test_clear_waits_for_every_frame_in_hand(bench):
    bench = bench()
    several_in_hand(bench)
    for name in bench.names:
        bench.send(name)
    waits, wait_for = threading.Event(), bench.pipeline._state.changed.wait_for

    def wait_for_worker(*arguments):
        waits.set()
        return wait_for(*arguments)

    bench.pipeline._state.changed.wait_for = wait_for_worker
    clearing = threading.Thread(target=bench.pipeline.clear)
    clearing.start()
    assert waits.wait(PATIENCE) and clearing.is_alive()
    bench.restorer.together_gate.set()
    clearing.join(PATIENCE)
    assert bench.published() == bench.each()
    for snapshot in bench.pipeline.snapshot().values():
        counts = snapshot.counts
        assert (counts.received, counts.published, counts.dropped) == (4, 3, 1)


def test_closing_waits_for_every_frame_in_hand_or_says_that_it_could_not(bench):
    bench = bench()
    several_in_hand(bench)
    assert not bench.pipeline.close(timeout=0.05)
    assert not bench.restorer.closed
    bench.restorer.together_gate.set()
    assert bench.pipeline.close(PATIENCE)
    assert bench.restorer.closed and bench.published() == bench.each()


def test_closing_during_a_trial_ends_it_and_closes_the_restorer(bench):
    bench = bench()
    bench.one_by_one()
    bench.restorer.batch_gate.clear()
    bench.restorer.cancel_builds = bench.restorer.batch_gate.set
    bench.wait_together()
    bench.restorer.gate.set()
    assert bench.restorer.trying.acquire(timeout=PATIENCE)
    assert bench.pipeline.close(PATIENCE)
    assert bench.restorer.closed and not bench.handler.problems


@pytest.mark.parametrize("close_takes_long", [True, False])
def test_of_the_frames_in_hand_none_goes_into_a_runtime_that_has_failed(bench, close_takes_long):
    bench = bench(ratios={4: 0.3})
    bench.ready()
    first, may_close = bench.restorer, threading.Event()
    if close_takes_long:
        first.close = lambda: may_close.wait(PATIENCE)
    calls = len(first.calls)
    bench.wait_together()
    first.fail_frames = first.fail_together = RuntimeError("CUDA error 719")
    first.gate.set()
    lost = bench.each()
    bench.handler.wait_for(
        lambda: Counter(camera for camera, *_ in bench.handler.problems if camera is not None) == lost
    )
    assert len(first.together) == 1 and len(first.calls) - calls == FAILURES_IN_A_ROW
    may_close.set()
    bench.handler.wait_for(lambda: bench.handler.recovered)


def test_what_a_failed_batch_held_is_given_back_while_others_go_on(bench):
    bench = bench(ratios={4: 0.3})
    bench.ready()
    lock, held = bench.pipeline._state.changed, []

    class Memory:
        def __del__(self) -> None:
            held.append(lock._is_owned())

    def fail(*arguments):
        memory = Memory()
        raise RuntimeError(f"no room beside {memory}")

    bench.restorer.restore_together = fail
    bench.burst()
    assert held == [False]
