"""Rain, fog and visibility as numbers, and when a camera is taken to be dry."""

from __future__ import annotations

import math

import pytest

from rain_removal_ros.rain_monitor import DRY_AFTER_S, LOOK_AGAIN_S, MAX_VISIBILITY_M, DryWatch, Weather


def test_visibility_is_koschmieders_and_fog_is_what_is_lost_over_fifty_metres():
    weather = Weather.of(0.4, 0.01)
    assert weather.rain == 0.4
    assert weather.visibility_m == pytest.approx(391.2, abs=0.05)
    assert weather.fog == pytest.approx(1 - math.exp(-0.5))


@pytest.mark.parametrize(("rain", "extinction"), [(None, 0.1), (0.1, None), (math.nan, 0.1), (0.1, math.inf)])
def test_what_the_network_does_not_say_is_not_made_up(rain, extinction):
    assert Weather.of(rain, extinction) is None


def test_clear_air_has_a_visibility_that_is_finite():
    assert Weather.of(0.0, 0.0) == Weather(0.0, 0.0, MAX_VISIBILITY_M)
    assert Weather.of(1.5, 1e-9) == Weather(1.0, pytest.approx(0, abs=1e-6), MAX_VISIBILITY_M)


def at(rain: float, fog: float = 0.0) -> Weather:
    return Weather(rain, fog, 1000.0)


def test_it_is_dry_after_a_while_without_rain_and_wet_at_once():
    watch = DryWatch()
    for tenth in range(int(10 * DRY_AFTER_S)):
        watch.update(at(0.01), tenth / 10)
        assert not watch.dry
    watch.update(at(0.01), DRY_AFTER_S + 0.1)
    assert watch.dry
    watch.update(at(0.1), 10.0)
    assert watch.dry, "between the thresholds it stays as it was"
    watch.update(at(0.2), 10.1)
    assert not watch.dry
    watch.update(at(0.1), 20.0)
    watch.update(at(0.1), 40.0)
    assert not watch.dry, "between the thresholds it stays as it was"


def test_fog_is_not_dry_and_neither_is_what_nobody_knows():
    for weather in (at(0.0, fog=0.5), None):
        watch = DryWatch()
        for second in range(20):
            watch.update(weather, float(second))
        assert not watch.dry


def test_the_network_looks_again_from_time_to_time():
    watch = DryWatch()
    assert watch.must_look(0.0)
    watch.update(at(0.0), 5.0)
    assert not watch.must_look(5.0 + LOOK_AGAIN_S / 2)
    assert watch.must_look(5.0 + LOOK_AGAIN_S)
