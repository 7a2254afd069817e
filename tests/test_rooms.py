"""The one rule of the house: imports run down, and in no circle (util/README.md)."""

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
# From the bottom up; rooms that share a floor do not know each other.
FLOORS = (
    "util.core | util.graph util.data | deeplab_resnet | util.models | CMPC_model | "
    "util.inference | util.evaluation | util.training | util.deploy | util.bench | "
    "commands"
)
FLOOR = {
    room: number
    for number, rooms in enumerate(FLOORS.split(" | "))
    for room in rooms.split()
}
# What users import from the paper's module comes from above when they ask for it.
EXCEPTION = ("CMPC_model", "util.inference.predictor")


def modules():
    """Return name -> path of every module of the project's."""
    paths = [path for path in TOP.glob("*.py") if path.name != "setup.py"]
    paths += [*TOP.glob("util/**/*.py"), *TOP.glob("deeplab_resnet/**/*.py")]
    names = [".".join(path.relative_to(TOP).with_suffix("").parts) for path in paths]
    return {n.replace(".__init__", ""): path for n, path in zip(names, paths)}


def room_of(module):
    """Return the room of a module: a file directly in util/ or here is a command."""
    rooms = (room for room in FLOOR if f"{module}.".startswith(f"{room}."))
    return next(rooms, "commands")


def imports(text, known):
    """Return those of the known modules that a source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known or {node.module}
    return found & known


def arrows_up(arrows):
    """Return (from, to) of the imports that do not lead to a lower floor."""
    for module, others in arrows.items():
        for other in others:
            here, there = room_of(module), room_of(other)
            if here != there and FLOOR[there] >= FLOOR[here]:
                yield module, other


def circle(arrows):
    """Return the modules that no order of loading serves: empty where all is well."""
    left = dict(arrows)
    while True:
        free = [module for module, others in left.items() if not others & set(left)]
        if not free:
            return sorted(left)
        for module in free:
            del left[module]


@pytest.fixture(scope="module")
def arrows():
    known = modules()
    return {
        name: imports(path.read_text(encoding="utf-8"), set(known)) - {name}
        for name, path in known.items()
    }


def test_imports_run_down(arrows):
    assert len(arrows) > 60 and "util.data.datasets" in arrows["util.data.build"]
    assert set(arrows_up(arrows)) <= {EXCEPTION}


def test_imports_run_in_no_circle(arrows):
    known = dict(arrows, CMPC_model=arrows["CMPC_model"] - {EXCEPTION[1]})
    assert circle(known) == []


def test_a_command_is_asked_for_by_nobody(arrows):
    commands = {module for module in arrows if room_of(module) == "commands"} - {"util"}
    assert not {(module, x) for module in arrows for x in arrows[module] & commands}


def test_offenders_are_named():
    known = {"util.core.a", "util.data.b", "util.graph.c", "util.check", "CMPC_model"}
    found = imports("def f():\n    from util.data import b\n    import os", known)
    assert found == {"util.data.b"}
    up = {"util.core.a": found, "util.check": {"util.core.a"}}
    assert list(arrows_up(up)) == [("util.core.a", "util.data.b")]
    assert list(arrows_up({"util.data.b": {"util.graph.c"}}))
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
