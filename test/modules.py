"""Which modules a test file needs that are not installed: found by reading imports, importing nothing."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = "rain_removal_ros"


@cache
def imported_at_the_top(path: Path) -> tuple[str, ...]:
    """Dotted names that a file imports when it is imported itself."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Try):
            nodes += ast.iter_child_nodes(node)


def file_of(name: str) -> Path | None:
    """The file of a module of ours, of the package or of the tests."""
    base = TESTS.parent if name.partition(".")[0] == PACKAGE else TESTS
    path = base.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def is_installed(module: str) -> bool:
    return module in sys.modules or importlib.util.find_spec(module) is not None


def skip_without(*modules: str) -> None:
    """Skip the test that runs where one of these is missing, which nothing imports before it is needed."""
    absent = [module for module in modules if not is_installed(module)]
    if absent:
        pytest.skip(f"this is not tested without {', '.join(absent)}")


def skip_without_the_modules_of(subcommand: str) -> None:
    """Skip the test that runs where a module of this subcommand of `derain` is missing."""
    absent = missing_modules(TESTS.parent / PACKAGE / "commands" / f"{subcommand}.py")
    if absent:
        pytest.skip(f"derain {subcommand} does not run without {', '.join(sorted(absent))}")


def missing_modules(path: Path) -> set[str]:
    """Top-level modules that a test file needs, by way of ours too, and that are not installed."""
    missing, seen, waiting = set(), set(), [path]
    while waiting:
        file = waiting.pop()
        if file in seen:  # it was put there by several before it was read
            continue
        seen.add(file)
        for name in imported_at_the_top(file):
            parts = name.split(".")
            if parts[0] == PACKAGE or file_of(parts[0]):
                files = {file_of(".".join(parts[:length])) for length in range(1, len(parts) + 1)}
                waiting += files - seen - {None}
            elif not is_installed(parts[0]):
                missing.add(parts[0])
    return missing
