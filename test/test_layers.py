"""The source layout: which file may import which, and what a vehicle loads. Reads imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from modules import missing_modules

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "rain_removal_ros"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}
ORDER = [
    *("replay", "ros", "bags", "pipeline", "files"),
    *("encodings", "decoding", "image_header", "runtime", "network"),
]
"""A vehicle's packages: each may import those after it and the small files that know nothing."""
PLAIN = {"", *(path.stem for path in (ROOT / PACKAGE).glob("*.py"))} - {"__init__", *ORDER}
"""Small files that know nothing of the packages."""


def module_of(name: str) -> str | None:
    """The file that a dotted name is or lies in."""
    while name.startswith(PACKAGE):
        if name in FILES:
            return name
        name = name.rpartition(".")[0]
    return None


@cache
def imports_of(module: str, lazy: bool) -> set[str]:
    """The files of the package that a file imports: at its top, or also within functions."""
    tree = ast.parse(FILES[module].read_text())
    found = set()
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or lazy:
            nodes += ast.iter_child_nodes(node)
    return {target for name in found if (target := module_of(name)) is not None} - {module}


def reached_from(module: str, lazy: bool) -> set[str]:
    """The files that a file imports, itself or by way of others; it itself too."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        file = waiting.pop()
        reached.add(file)
        waiting += imports_of(file, lazy) - reached
    return reached


def package_of(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def test_no_files_import_each_other():
    graph = {module: imports_of(module, lazy=False) for module in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("package", ORDER)
def test_a_package_of_the_vehicle_imports_what_it_may_and_never_the_lab_or_the_commands(package):
    allowed = {*ORDER[ORDER.index(package) :], *PLAIN}
    for module in FILES:
        if package_of(module) == package:
            for imported in imports_of(module, lazy=True):
                assert package_of(imported) in allowed, f"{module} imports {imported}"


def test_the_node_and_its_clients_know_nothing_of_bags():
    for module in FILES:
        if package_of(module) == "ros":
            assert "bags" not in {package_of(imported) for imported in imports_of(module, lazy=True)}, module


def test_the_small_files_know_nothing_of_the_packages():
    for module in FILES:
        if package_of(module) in PLAIN:
            foreign = {package_of(imported) for imported in imports_of(module, lazy=True)} - PLAIN
            assert not foreign, f"{module} imports {foreign}"


def test_commands_load_the_lab_only_when_their_subcommand_is_asked_for():
    tops = {
        target
        for module in ("commands.main", "commands")
        for target in imports_of(f"{PACKAGE}.{module}", True)
    }
    assert not [target for target in tops if package_of(target) == "lab"]
    for name in ("image", "video", "node", "build"):
        reached = reached_from(f"{PACKAGE}.commands.{name}", lazy=True)
        assert not [module for module in reached if package_of(module) == "lab"], name


@pytest.mark.parametrize(
    ("module", "lazy"),
    [
        *(("commands.evaluate", False), ("commands.monitor", False)),
        *(("commands.train", False), ("commands.benchmark", True)),
        *(("lab.benchmark.inference", False), ("lab.training.trainer", False)),
    ],
)
def test_what_loads_weights_in_the_lab_knows_the_networks_to_compare_with(module, lazy):
    assert f"{PACKAGE}.lab.baselines" in reached_from(f"{PACKAGE}.{module}", lazy)


def test_the_lab_imports_no_command_and_no_ros_but_for_the_demo_and_the_benchmark():
    for module in FILES:
        if package_of(module) == "lab":
            imported = {package_of(target) for target in imports_of(module, lazy=True)}
            foreign = imported & {"commands", "replay", "ros"}
            playing = module.startswith((f"{PACKAGE}.lab.demo", f"{PACKAGE}.lab.benchmark"))
            assert not foreign or (playing and foreign == {"ros"}), f"{module} imports {foreign}"


@pytest.mark.parametrize(
    ("imports", "needs"),
    [
        ("ros.node", "rclpy"),
        ("runtime.selection, runtime.openvino, runtime.pytorch, runtime.tensorrt", "openvino"),
        ("network", "torch"),
        ("files.images, files.video", "av"),
        ("pipeline", "numpy"),
    ],
)
def test_a_process_that_loads_the_vehicles_rooms_loads_nothing_of_the_lab(imports, needs):
    pytest.importorskip(needs, reason=f"without {needs} a vehicle cannot run that package either")
    names = ", ".join(f"{PACKAGE}.{name.strip()}" for name in imports.split(","))
    code = f"import {names}; import sys; print(*[name for name in sys.modules if '{PACKAGE}' in name])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert f"{PACKAGE}.{imports.split(',')[0]}" in loaded
    assert not [name for name in loaded if name.startswith(f"{PACKAGE}.lab")]


@pytest.mark.parametrize(
    "module",
    [
        *("pipeline", "runtime", "image_header", "runtime.cache", "encodings", "bags"),
        *("lab.scenes", "lab.weather", "lab.data.datasets", "commands.compare", "commands.drive"),
    ],
)
def test_what_needs_no_network_loads_no_pytorch(module):
    if absent := missing_modules(FILES[f"{PACKAGE}.{module}"]):
        pytest.skip(f"nobody can run it here without {', '.join(sorted(absent))}")
    code = f"import {PACKAGE}.{module}, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
