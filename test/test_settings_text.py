"""Settings of a run as texts: what goes round through TOML, what is refused, and how that is said."""

from __future__ import annotations

import dataclasses

import pytest

from rain_removal_ros.errors import ParameterError, PresetError
from rain_removal_ros.lab.training.recipe import RECIPES
from rain_removal_ros.lab.training.settings import TrainingSettings, plain_settings
from rain_removal_ros.lab.training.settings_text import (
    from_assignment,
    from_file,
    resolve,
    to_toml,
    values_of,
)
from rain_removal_ros.network import PRESETS, get_preset

USUAL = TrainingSettings(get_preset("fast"), steps=10)


def with_(*texts: str, settings: TrainingSettings = USUAL) -> TrainingSettings:
    return resolve(settings, map(from_assignment, texts))


STAGES = [(recipe, stage) for recipe, stages in RECIPES.items() for stage in stages]


@pytest.mark.parametrize(("recipe", "stage"), STAGES, ids=[f"{name}-{stage.name}" for name, stage in STAGES])
def test_what_is_printed_gives_the_same_settings_again(recipe, stage, tmp_path) -> None:
    odd = dataclasses.replace(stage.settings, learning_rate=0.1 + 0.2, weight_decay=1e-05, clip=1e300)
    (tmp_path / "settings.toml").write_text(to_toml(odd, [recipe, stage.name]))
    again = resolve(USUAL, from_file(tmp_path / "settings.toml"))
    assert plain_settings(again) == plain_settings(dataclasses.replace(odd, segmentation=None))
    assert {key: type(value) for key, value in values_of(again).items()} == {
        key: type(value) for key, value in values_of(odd).items()
    }
    assert type(again.preset) is type(odd.preset)


def test_every_field_of_the_settings_has_a_key() -> None:
    expected = {
        f"{prefix}{field.name}"
        for prefix, part in (
            ("", USUAL),
            ("samples.", USUAL.samples),
            ("weights.", USUAL.weights),
            ("preset.", USUAL.preset),
        )
        for field in dataclasses.fields(part)
    }
    assert set(values_of(USUAL)) == expected - {
        *("samples", "weights", "preset"),  # parts
        *("segmentation", "preset.family"),  # follow from others
    }


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("weights.harm=2", "weights.harm", 2.0),
        ("samples.dry_share = 0.3", "samples.dry_share", 0.3),
        ("samples.width=512", "samples.width", 512),
        ("samples.width=none", "samples.width", None),
        ("samples.scales=0.5,1", "samples.scales", (0.5, 1.0)),
        ("samples.scales=[0.5, 1]", "samples.scales", (0.5, 1.0)),
        ("part=fog", "part", "fog"),
        ("precision=no", "precision", "no"),
        ('precision="fp16"', "precision", "fp16"),
        ("frozen=trunk.stem,trunk.blocks.0", "frozen", ("trunk.stem", "trunk.blocks.0")),
        ("frozen=trunk.stem", "frozen", ("trunk.stem",)),
        ("frozen=[]", "frozen", ()),
        ("preset.depth_guided=false", "preset.depth_guided", False),
        ("preset=judge", "preset.trunk", "lite2"),
        ("preset.name=judge", "preset.trunk", "lite2"),
    ],
)
def test_a_setting_is_given_by_its_key(text, key, value) -> None:
    begin = with_("samples.width=64", "frozen=trunk")
    changed = values_of(with_(text, settings=begin))
    assert (changed[key], type(changed[key])) == (value, type(value))
    if not text.startswith("preset"):
        assert {k: v for k, v in changed.items() if k != key} == {
            k: v for k, v in values_of(begin).items() if k != key
        }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("samples.dry_shar=0.3", r"no setting 'samples.dry_shar'; did you mean samples.dry_share\?"),
        ("dry_share=0.3", r"no setting 'dry_share'; did you mean samples.dry_share"),
        ("learningrate=1", r"no setting 'learningrate'; did you mean learning_rate"),
        ("samples=3", r"no setting 'samples'; "),
        ("qqq=1", r"no setting 'qqq'; --print-settings lists"),
        ("samples.dry_share=much", r"samples.dry_share must be a number from 0 to 1"),
        ("samples.dry_share=1.1", r"samples.dry_share must be a number from 0 to 1"),
        ("samples.dry_share=nan", r"samples.dry_share must be a number from 0 to 1"),
        ("samples.dry_share=true", r"samples.dry_share must be a number from 0 to 1"),
        ("weights.harm=-1", r"weights.harm must be a number of at least 0"),
        ("weights.harm=inf", r"weights.harm must be a number of at least 0"),
        ("learning_rate=0", r"learning_rate must be a number above 0"),
        ("steps=1.5", r"steps must be a whole number of at least 1"),
        ("steps=0", r"steps must be a whole number of at least 1"),
        ("samples.size=100", r"samples.size must be a whole number divisible by 32, of at least 64"),
        ("samples.width=100", r"samples.width must be a whole number divisible .*, or none"),
        ("samples.size=none", r"samples.size must be a whole number"),
        ("samples.scales=1", r"samples.scales must be 2 numbers, not 1"),
        ("samples.scales=0,1", r"samples.scales must be 2, each a number above 0"),
        ("samples.scales=2,1", r"samples.scales \(2.0, 1.0\) must have the lesser one first"),
        ("samples.dry_share=0.9", r"0.9 \+ 0.16 \+ 0.18, are more than 1 together"),
        ("part=trunk", r"part must be one of all, streaks, fog, depth"),
        ("precision=8", r"precision must be one of bf16, fp16, no"),
        ("frozen=[3]", r"frozen must be a list, each a text"),
        ("preset.depth_guided=1", r"preset.depth_guided must be true or false"),
        ("preset.channels=8,8", r"preset.channels must be 4 numbers, not 2"),
        ("segmentation=mask", r"segmentation cannot be set; it is the name of the file given as --segm"),
        ("preset.family=paper", r"preset.family cannot be set; it follows from preset.name"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key_and_what_it_takes(text, said) -> None:
    with pytest.raises(ParameterError, match=said) as refused:
        with_(text)
    if "together" not in said and "lesser" not in said:
        assert str(refused.value).startswith(f"--set {text}: ")


def test_an_unknown_preset_is_named_with_those_that_there_are() -> None:
    with pytest.raises(PresetError, match=r"--set preset=fats: unknown preset 'fats'.*dgnl-fast"):
        with_("preset=fats")
    assert {preset.name for preset in PRESETS.values()} == {
        with_(f"preset={name}").preset.name for name in PRESETS
    }


def test_a_preset_is_taken_before_what_changes_it() -> None:
    assert with_("preset.mlp_ratio=2", "preset=paper").preset.mlp_ratio == 2
    with pytest.raises(ParameterError, match=r"no setting 'preset.streak_channels'"):
        with_("preset=paper", "preset.streak_channels=8,8")


def test_an_assignment_without_a_value_is_refused() -> None:
    for text in ("weights.harm", "=2"):
        with pytest.raises(ParameterError, match=r"is not KEY=VALUE, such as samples.dry_share=0.3"):
            from_assignment(text)


def test_a_file_that_is_no_settings_is_named(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(ParameterError, match=r"mine.toml cannot be read \(No such file"):
        from_file(path)
    path.write_text("steps 3")
    with pytest.raises(ParameterError, match=r"mine.toml are not TOML \(.*line 1"):
        from_file(path)
    path.write_text("[samples]\nsize = 'large'")
    with pytest.raises(
        ParameterError, match=r"mine.toml: samples.size = 'large': samples.size must be a who"
    ):
        resolve(USUAL, from_file(path))
