"""Every promise of docs/reliability.md names what breaks it on purpose, and that is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CITED = re.compile(r"`(?P<file>test_\w+\.py)`|(?P<matrix>matrix)\b|\*(?P<title>[^*]+)\*")


def promises() -> list[tuple[str, str]]:
    """Each promise, and what its row says that it is tested by."""
    rows = []
    for table in (
        (ROOT / "docs" / "reliability.md").read_text().split("| promise | tested by |\n|---|---|\n")[1:]
    ):
        for line in table.partition("\n\n")[0].splitlines():
            promise, cited = line.strip("|").rsplit("|", 1)
            rows.append((promise.strip(), cited.strip()))
    return rows


def titles(place: str) -> list[str]:
    """The tests of a file, or the groups of the fault matrix, in words."""
    if place == "matrix":
        suites = "".join(path.read_text() for path in sorted((ROOT / "test" / "faults").glob("*.py")))
        return re.findall(r'Case\(\s*"([^"]+)"', suites)
    return re.findall(r"def test_(\w+)", (ROOT / "test" / place).read_text())


def in_words(title: str) -> str:
    return re.sub(r"[\W_]+", " ", title.replace("'", "")).strip().lower()


def missing(cited: str) -> list[str]:
    """What is cited and is not there."""
    place, gone = None, []
    for match in CITED.finditer(cited):
        place = match["file"] or match["matrix"] or place
        if place != "matrix" and not (ROOT / "test" / str(place)).is_file():
            gone.append(str(place))
        elif match["title"] and not any(
            in_words(match["title"]) in in_words(title) for title in titles(place)
        ):
            gone.append(f"{place}: {match['title']}")
    return gone


def test_what_a_promise_is_tested_by_is_there() -> None:
    rows = promises()
    assert len(rows) > 20
    assert {promise: gone for promise, cited in rows if (gone := missing(cited))} == {}
    assert [promise for promise, cited in rows if not CITED.search(cited) and cited != "the same"] == []


def test_a_test_that_is_gone_is_missed() -> None:
    assert missing("`test_no_such_file.py`: *anything*")
    assert missing("`test_promises.py`: *a test that nobody wrote*")
    assert not missing("`test_promises.py`: *what a promise is tested by*; matrix: *signals*")
