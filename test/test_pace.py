"""When a bag's messages are due: numbers, no clock and no ROS."""

from __future__ import annotations

import pytest

from rain_removal_ros.replay.pace import LEAP_S, Pace

SECOND = 10**9


def test_messages_are_due_at_the_bags_pace_times_the_rate():
    pace = Pace(rate=2.0, began=100.0)
    for time, due in ((5 * SECOND, 100.0), (6 * SECOND, 100.5), (9 * SECOND, 102.0)):
        pace.advance(time)
        assert pace.left(due) == pytest.approx(0) and pace.left(due - 0.25) == pytest.approx(0.25)
    assert pace.played == pytest.approx(4.0)


def test_the_bags_time_runs_up_to_the_message_that_is_due_and_no_further():
    pace = Pace(rate=2.0, began=100.0)
    pace.advance(5 * SECOND)
    pace.advance(6 * SECOND)
    assert [pace.bag_time(now) for now in (100.0, 100.25, 100.5, 107.0)] == [
        5 * SECOND,
        5 * SECOND + SECOND // 2,
        6 * SECOND,
        6 * SECOND,
    ]


@pytest.mark.parametrize("leap", [-1.0, LEAP_S + 1.0, 1.7e9])
def test_a_clock_that_was_set_is_not_waited_for(leap):
    pace = Pace(rate=1.0, began=0.0)
    pace.advance(10**18)
    pace.advance(10**18 + int(leap * SECOND))
    assert pace.left(0.0) == 0 and pace.played == 0
    assert pace.bag_time(0.0) == 10**18 + int(leap * SECOND)


def test_what_the_bag_waited_is_not_caught_up_on():
    pace = Pace(rate=1.0, began=0.0)
    pace.advance(0)
    pace.stand_still(3.0)
    pace.advance(SECOND)
    assert pace.left(1.0) == pytest.approx(3.0)
