"""Rain, fog and visibility as numbers, and when a camera is taken to be dry."""

from __future__ import annotations

import math

import pytest

from rain_removal_ros.errors import ParameterError
from rain_removal_ros.rain_monitor import (
    FULL_STREAK_LIGHT,
    LOOK_AGAIN_S,
    MAX_VISIBILITY_M,
    DryThresholds,
    DryWatch,
    Weather,
)
from rain_removal_ros.ros.parameters import PARAMETERS, check_together

USUAL = DryThresholds()


def test_visibility_is_koschmieders_and_fog_is_what_is_lost_over_fifty_metres():
    weather = Weather.of(0.02, 0.01)
    assert weather.visibility_m == pytest.approx(391.2, abs=0.05)
    assert weather.fog == pytest.approx(1 - math.exp(-0.5))


def test_rain_grows_with_the_light_of_its_streaks_and_stays_below_one():
    rain = [Weather.of(light, 0.0).rain for light in (-0.01, 0.0, 0.01, FULL_STREAK_LIGHT, 0.2)]
    assert rain == pytest.approx([0, 0, 0.1813, 0.6321, 0.9817], abs=1e-4)


@pytest.mark.parametrize(
    ("streak_light", "extinction"), [(None, 0.1), (0.1, None), (math.nan, 0.1), (0.1, math.inf)]
)
def test_what_the_network_does_not_say_is_not_made_up(streak_light, extinction):
    assert Weather.of(streak_light, extinction) is None


def test_clear_air_has_a_visibility_that_is_finite():
    assert Weather.of(0.0, 0.0) == Weather(0.0, 0.0, MAX_VISIBILITY_M)
    assert Weather.of(9.0, 1e-9) == Weather(1.0, pytest.approx(0, abs=1e-6), MAX_VISIBILITY_M)


def at(rain: float, fog: float = 0.0) -> Weather:
    return Weather(rain, fog, 1000.0)


def test_it_is_dry_after_a_while_without_rain_and_wet_at_once():
    watch = DryWatch()
    for tenth in range(int(10 * USUAL.dry_after_s)):
        watch.update(at(0.01), tenth / 10, USUAL)
        assert not watch.dry
    watch.update(at(0.01), USUAL.dry_after_s + 0.1, USUAL)
    assert watch.dry
    watch.update(at(0.1), 10.0, USUAL)
    assert watch.dry, "between the thresholds it stays as it was"
    watch.update(at(0.2), 10.1, USUAL)
    assert not watch.dry
    watch.update(at(0.1), 20.0, USUAL)
    watch.update(at(0.1), 40.0, USUAL)
    assert not watch.dry, "between the thresholds it stays as it was"


def test_frames_far_apart_say_nothing_of_what_was_between():
    watch = DryWatch()
    watch.update(at(0.01), 0.0, USUAL)
    watch.update(at(0.01), 600.0, USUAL)
    assert not watch.dry
    for tenth in range(int(10 * USUAL.dry_after_s) + 2):
        watch.update(at(0.01), 600 + tenth / 10, USUAL)
    assert watch.dry
    watch.update(at(0.01), 1200.0, USUAL)
    assert watch.dry, "rain that nobody saw ends no dry spell"


def test_fog_is_not_dry_and_neither_is_what_nobody_knows():
    for weather in (at(0.0, fog=0.5), None):
        watch = DryWatch()
        for second in range(20):
            watch.update(weather, float(second), USUAL)
        assert not watch.dry


def test_the_network_looks_again_from_time_to_time():
    watch = DryWatch()
    assert watch.must_look(0.0)
    watch.update(at(0.0), 5.0, USUAL)
    assert not watch.must_look(5.0 + LOOK_AGAIN_S / 2)
    assert watch.must_look(5.0 + LOOK_AGAIN_S)


def test_thresholds_decide_what_is_dry():
    for thresholds, dry in (
        (DryThresholds(dry_after_s=0.0), False),
        (DryThresholds(dry_below=0.2, wet_above=0.3, dry_after_s=0.0), True),
        (DryThresholds(dry_below=0.2, wet_above=0.3, dry_after_s=9.0), False),
    ):
        watch = DryWatch()
        watch.update(at(0.1, fog=0.19), 0.0, thresholds)
        watch.update(at(0.1, fog=0.19), 1.0, thresholds)
        assert watch.dry is dry


def test_the_nodes_parameters_begin_with_the_usual_thresholds_and_cannot_contradict_each_other():
    values = {parameter.name: parameter.default for parameter in PARAMETERS}
    assert DryThresholds(
        values["bypass.dry_below"], values["bypass.wet_above"], values["bypass.dry_after_s"]
    ) == (USUAL)
    check_together(values)
    check_together({**values, "bypass.wet_above": 0.05})
    with pytest.raises(ParameterError, match=r"bypass.dry_below is 0.05 and bypass.wet_above is 0.04"):
        check_together({**values, "bypass.wet_above": 0.04})
