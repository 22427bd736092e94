"""The audit tells what is missing, not pinned, of another version, or under no known licence."""

from __future__ import annotations

from email.message import Message
from importlib.metadata import PackageNotFoundError
from pathlib import Path, PurePosixPath

import audit
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


class Made:
    """A distribution that says what a test has it say."""

    def __init__(self, version: str = "1.0", requires=(), files=("made.py",), folder=None, **metadata: str):
        self.version, self.requires, self._folder = version, list(requires), folder
        self.files = None if files is None else [PurePosixPath(file) for file in files]
        self.metadata = Message()
        for name, value in metadata.items():
            self.metadata[name.replace("_", "-")] = value

    def locate_file(self, file) -> Path:
        return self._folder / file


def find_in(**made: Made):
    def find(name: str) -> Made:
        try:
            return made[name.replace("-", "_")]
        except KeyError as error:
            raise PackageNotFoundError(name) from error

    return find


MIT = {"License_Expression": "MIT"}


def wrong_with(name: str, made: Made, pins: str = "") -> list[str]:
    return audit.problems({name: made}, (), audit.read_pins(pins or f"{name}=={made.version}"))


def test_what_is_needed_is_found_by_way_of_others_and_of_extras():
    find = find_in(
        ours=Made(requires=["First>=1", 'second; extra == "more"', 'third; extra == "never"']),
        first=Made(requires=["deep[with_it]", "old; python_version < '3'"]),
        deep=Made(requires=['behind_an_extra; extra == "with_it"', "ours"]),
        second=Made(requires=["gone"]),
        behind_an_extra=Made(),
    )
    found, missing = audit.needed("ours", ["more"], find)
    assert set(found) == {"ours", "first", "deep", "second", "behind-an-extra"}
    assert missing == {"gone"}
    assert "gone is needed and not installed" in audit.problems({}, missing, {})


def test_what_is_pinned_under_a_known_licence_is_no_problem():
    assert wrong_with("made", Made(**MIT)) == []
    assert wrong_with("torch", Made("2.13.0+cpu", **MIT), "torch==2.13.0") == []
    assert wrong_with("made", Made("2.0rc1", **MIT)) == []


@pytest.mark.parametrize("name", ["nvidia-cublas", "cuda-bindings", "triton"])
def test_what_a_cuda_build_of_torch_brings_is_its_own_affair(name):
    assert wrong_with(name, Made(License="NVIDIA Proprietary Software"), "torch==2.13.0") == []
    assert len(wrong_with(f"not-{name}", Made(License="NVIDIA Proprietary Software"), "torch==2.13.0")) == 2


def test_another_version_and_none_at_all_are_told():
    assert wrong_with("made", Made("1.1", **MIT), "made==1.0") == ["made is 1.1; constraints.txt says ==1.0"]
    assert wrong_with("made", Made(**MIT), "other==1.0") == ["made 1.0 is not pinned in constraints.txt"]


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "names no licence"),
        ({"License": "UNKNOWN"}, "names no licence"),
        ({"License": "AGPL-3.0"}, "'AGPL-3.0'"),
        ({"Classifier": "License :: Other/Proprietary License"}, "'Other/Proprietary License'"),
        ({"License": "Permitted to nobody"}, "'Permitted to nobody'"),
    ],
)
def test_a_licence_that_nobody_has_looked_at_is_told(metadata, said):
    (problem,) = wrong_with("made", Made(**metadata))
    assert said in problem and "SAID_ELSEWHERE" in problem
    assert len(wrong_with("made", Made(files=None, **metadata))) == 1, "without a list of files too"


@pytest.mark.parametrize(
    "metadata",
    [
        {"License_Expression": "Apache-2.0"},
        {"License": "3-Clause BSD License\nRedistribution and use"},
        {"Classifier": "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)"},
    ],
)
def test_a_licence_is_read_from_wherever_a_distribution_names_it(metadata):
    assert wrong_with("made", Made(**metadata)) == []


def test_a_ros_package_names_its_licence_in_package_xml_and_an_empty_one_needs_none(tmp_path):
    (tmp_path / "package.xml").write_text("<package><license>Apache License 2.0</license></package>")
    ros = Made(files=["package.xml"], folder=tmp_path)
    assert audit.licence_of("ros-made", ros) == "Apache License 2.0"
    assert wrong_with("ros-made", ros) == []
    assert wrong_with("ros-jazzy-made", Made(files=["ros_jazzy_made.dist-info/METADATA"])) == []


@pytest.mark.parametrize("line", ["numpy", "numpy>=2", "numpy==2.*", "numpy==2,>1", "not a requirement"])
def test_a_line_that_pins_nothing_is_refused(line):
    with pytest.raises(ValueError, match=r"constraints\.txt: "):
        audit.read_pins(f"# a comment\n\n{line}\n")


def test_constraints_pin_whatever_the_package_asks_for_but_tensorrt(monkeypatch):
    asked: dict = {}
    monkeypatch.setattr("setuptools.setup", lambda **arguments: asked.update(arguments))
    monkeypatch.setattr("setuptools.find_packages", lambda **_: [])
    source = (ROOT / "setup.py").read_text()
    exec(compile(source, str(ROOT / "setup.py"), "exec"), {"__file__": str(ROOT / "setup.py")})
    texts = [*asked["install_requires"]]
    for extra in audit.EXTRAS:
        texts += asked["extras_require"][extra]
    names = {canonicalize_name(Requirement(text).name) for text in texts}
    assert "numpy" in names and "rosbags" in names
    assert names <= set(audit.read_pins((ROOT / "constraints.txt").read_text()))
    assert set(asked["extras_require"]) == {*audit.EXTRAS, "tensorrt", "tensorrt-rtx"}


ADVISORY = """\
id: PYSEC-1
affected:
- package: {ecosystem: PyPI, name: Some_Thing}
  ranges:
  - {type: GIT, events: [{introduced: "0"}]}
  - type: ECOSYSTEM
    events: [{introduced: "0"}, {fixed: "1.2"}, {introduced: 2.0rc1}, {last_affected: "2.5"}]
  versions: [0.9-odd]
"""


@pytest.mark.parametrize(
    ("version", "affected"),
    [("1.1.9", True), ("1.2", False), ("1.10", False), ("2.0", True), ("2.5", True), ("2.5.1", False)],
)
def test_a_known_vulnerability_of_what_is_installed_is_told(tmp_path, version, affected):
    (tmp_path / "some-thing").mkdir()
    (tmp_path / "some-thing" / "PYSEC-1.yaml").write_text(ADVISORY)
    (tmp_path / "other.yaml").write_text("unrelated: true")
    found = {"some-thing": Made(version), "another": Made("1.1")}
    told = [f"some-thing {version} has PYSEC-1: take a version without it"] if affected else []
    assert audit.advisories(tmp_path, found) == told
    (tmp_path / "some-thing" / "PYSEC-1.yaml").write_text(ADVISORY + "withdrawn: 2020-01-01T00:00:00Z\n")
    assert audit.advisories(tmp_path, found) == []


def test_a_folder_without_advisories_is_no_clean_bill(tmp_path):
    with pytest.raises(ValueError, match="holds no advisories; give"):
        audit.advisories(tmp_path, {})
