"""Settings of a run as people write and read them: one dotted key each, on the command line and in TOML.

Knows what values a setting may have; what they do is said where they are defined.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rain_removal_ros.errors import ParameterError, PresetError, shown
from rain_removal_ros.lab.training.settings import PARTS, TrainingSettings
from rain_removal_ros.network.presets import get_preset

PRESET, PRESET_NAME = "preset", "preset.name"
"""Two keys of one meaning: a preset by its name. Keys such as preset.depth_channels change it."""

NONE = "none"
"""Text of a setting that may be without a value, and is."""

_DERIVED = {
    "segmentation": "it is the name of the file given as --segmentation",
    "preset.family": "it follows from preset.name",
}
"""Fields that are no settings of their own, and why."""


@dataclass(frozen=True)
class Given:
    """A value that somebody gave for a setting: its key, what TOML makes of it, and how it was written."""

    key: str
    value: object
    written: str


@dataclass(frozen=True)
class _Numbers:
    """What numbers a setting takes; infinite and undefined ones never are."""

    least: float = 0.0
    most: float = math.inf
    above: bool = False  # `least` itself is excluded
    multiple_of: int | None = None

    def __contains__(self, number: float) -> bool:
        low = number > self.least if self.above else number >= self.least
        even = self.multiple_of is None or number % self.multiple_of == 0
        return math.isfinite(number) and low and number <= self.most and even

    def __str__(self) -> str:
        if self.above:
            return f"above {self.least:g}"
        many = f"divisible by {self.multiple_of}, " if self.multiple_of else ""
        if self.most == math.inf:
            return f"{many}of at least {self.least:g}"
        return f"{many}from {self.least:g} to {self.most:g}"


_POSITIVE, _COUNT, _SHARE = _Numbers(above=True), _Numbers(1), _Numbers(0, 1)
_SIDE = _Numbers(64, multiple_of=32)
_NUMBERS = {
    "steps": _COUNT,
    "batch": _COUNT,
    "learning_rate": _POSITIVE,
    "trunk_rate": _Numbers(),
    "warmup_share": _SHARE,
    "weight_decay": _Numbers(),
    "clip": _POSITIVE,
    "average_decay": _SHARE,
    "class_balance": _SHARE,
    "seed": _Numbers(),
    "samples.size": _SIDE,
    "samples.width": _SIDE,
    "samples.measured_weight": _POSITIVE,
    "samples.scales": _POSITIVE,
    "samples.small_zoom": _Numbers(1),
    "samples.pictures": _COUNT,
}
_CHOICES = {"part": tuple(PARTS), "precision": ("bf16", "fp16", "no")}


def _numbers_of(key: str) -> _Numbers:
    if key in _NUMBERS:
        return _NUMBERS[key]
    if key.startswith("preset."):
        return _COUNT
    return _SHARE if key.endswith("_share") else _Numbers()


def values_of(settings: TrainingSettings) -> dict[str, Any]:
    """Every setting by its dotted key, those without a dot first, each part of the settings together."""
    return {key: value for key, value, _ in _entries(settings)}


def _entries(settings: TrainingSettings) -> Iterator[tuple[str, Any, Any]]:
    """Key, value and type of every setting."""
    parts = []
    for name, value, kind in _fields(settings):
        if dataclasses.is_dataclass(value):
            parts.append((name, value))
        elif name not in _DERIVED:
            yield name, value, kind
    for part, values in parts:
        for name, value, kind in _fields(values):
            if f"{part}.{name}" not in _DERIVED:
                yield f"{part}.{name}", value, kind


def _fields(values: Any) -> Iterator[tuple[str, Any, Any]]:
    hints = typing.get_type_hints(type(values))
    for field in dataclasses.fields(values):
        yield field.name, getattr(values, field.name), hints[field.name]


def to_toml(settings: TrainingSettings, heading: Sequence[str] = ()) -> str:
    """All settings as TOML, which `from_file` takes again; `heading`: lines of comment before them."""
    lines = [f"# {line}" for line in heading]
    part = ""
    for key, value in values_of(settings).items():
        of, _, name = key.rpartition(".")
        if of != part:
            part = of
            lines += ["", f"[{of}]"]
        lines.append(f"{name} = {_as_toml(value)}")
    return "\n".join(lines) + "\n"


def _as_toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_as_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, str):
        return json.dumps(NONE if value is None else value, ensure_ascii=False)
    return repr(value)


def from_file(path: Path) -> list[Given]:
    """What a TOML file gives: any settings, those of a part in its table, such as [samples].

    Raises ParameterError where it cannot be read.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"settings {path} cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ParameterError(f"settings {path} are not TOML ({error})") from error
    return [Given(key, value, f"{path}: {key} = {shown(value)}") for key, value in _flat(content)]


def _flat(table: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def from_assignment(text: str, option: str = "--set") -> Given:
    """What KEY=VALUE gives; the value as TOML has it, or a text without quotes. Raises ParameterError where
    there is no `=`.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ParameterError(f"{option} {shown(text)} is not KEY=VALUE, such as samples.dry_share=0.3")
    return Given(key.strip(), _parsed(value.strip()), f"{option} {text}")


def _parsed(text: str) -> object:
    try:
        content = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return content["value"] if content.keys() == {"value"} else text


def resolve(settings: TrainingSettings, given: Iterable[Given]) -> TrainingSettings:
    """The settings with what was given for some of them, of several values for one the last.

    A preset is taken first, then what changes it. Raises ParameterError, naming the key, what it takes and
    what is like it, for an unknown key, a value of another type or out of its range, scales or shares that
    do not go together, and PresetError for an unknown preset.
    """
    given = list(given)
    for each in given:
        if each.key in (PRESET, PRESET_NAME):
            try:
                settings = replace(settings, preset=get_preset(str(each.value)))
            except PresetError as error:
                raise PresetError(f"{each.written}: {error}") from error
    for each in given:
        if each.key not in (PRESET, PRESET_NAME):
            settings = _with(settings, each)
    _check_together(settings)
    return settings


def _with(settings: TrainingSettings, given: Given) -> TrainingSettings:
    known = {key: (value, kind) for key, value, kind in _entries(settings)}
    if given.key in _DERIVED:
        raise ParameterError(f"{given.written}: {given.key} cannot be set; {_DERIVED[given.key]}")
    if given.key not in known:
        raise ParameterError(
            f"{given.written}: there is no setting {shown(given.key)}; {_like(given.key, known)}"
        )
    present, kind = known[given.key]
    try:
        value = _taken(given.key, kind, given.value, present)
    except ValueError as error:
        raise ParameterError(f"{given.written}: {given.key} must be {error}") from error
    part, _, name = given.key.rpartition(".")
    change: dict[str, Any] = {name: value}
    if part:
        change = {part: replace(getattr(settings, part), **change)}
    return replace(settings, **change)


def _like(key: str, known: Iterable[str]) -> str:
    """What to do about a key that there is not."""
    known = list(known)
    name = key.rpartition(".")[2]
    names = difflib.get_close_matches(name, [other.rpartition(".")[2] for other in known], cutoff=0.75)
    close = [other for other in known if other.rpartition(".")[2] in names]
    close = close or difflib.get_close_matches(key, known)
    return f"did you mean {' or '.join(close)}?" if close else "--print-settings lists those that there are"


def _taken(key: str, kind: Any, value: object, present: Any) -> Any:
    """The value as a setting of this type has it. Raises ValueError, saying what it must be."""
    if isinstance(kind, types.UnionType):
        (plain,) = (each for each in typing.get_args(kind) if each is not types.NoneType)
        if value == NONE:
            return None
        try:
            return _taken(key, plain, value, present)
        except ValueError as error:
            raise ValueError(f"{error}, or {NONE}") from error
    if typing.get_origin(kind) is tuple:
        return _items(key, typing.get_args(kind), value, present)
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value
    if kind is str:
        choices = _CHOICES.get(key)
        if not isinstance(value, str) or (choices and value not in choices):
            raise ValueError(f"one of {', '.join(choices)}" if choices else "a text")
        return value
    numbers = _numbers_of(key)
    what = f"a {'whole ' if kind is int else ''}number {numbers}"
    if isinstance(value, bool) or not isinstance(value, int | (int if kind is int else float)):
        raise ValueError(what)
    if value not in numbers:
        raise ValueError(what)
    return kind(value)


def _items(key: str, kinds: tuple[Any, ...], value: object, present: tuple[Any, ...]) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = [_parsed(part.strip()) for part in value.split(",")] if value else []
    elif not isinstance(value, list | tuple):
        value = [value]
    kind = kinds[0]
    count = None if kind is str else len(present)  # what is listed of a network has its stages' number
    try:
        items = tuple(_taken(key, kind, each, None) for each in value)
    except ValueError as error:
        raise ValueError(f"{'a list' if count is None else count}, each {error}") from error
    if count is not None and len(items) != count:
        raise ValueError(f"{count} numbers, not {len(items)}")
    return items


def _check_together(settings: TrainingSettings) -> None:
    samples = settings.samples
    if samples.scales[0] > samples.scales[1]:
        raise ParameterError(f"samples.scales {samples.scales} must have the lesser one first")
    shares = samples.dry_share, samples.fog_only_share, samples.streaks_only_share
    if sum(shares) > 1 + 1e-9:
        raise ParameterError(
            "samples.dry_share, samples.fog_only_share and samples.streaks_only_share, "
            f"{' + '.join(f'{share:g}' for share in shares)}, are more than 1 together"
        )
