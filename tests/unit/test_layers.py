"""The layers of docs/architecture.md, read from the syntax trees: imports only go down."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mender_monitor_py.subsystems import SUBSYSTEMS as SUBSYSTEM_NAMES
from mender_monitor_py.subsystems import TEMPLATES

SOURCE = Path(__file__).resolve().parents[2]
PACKAGE = "mender_monitor_py"
FILES = sorted((SOURCE / PACKAGE).rglob("*.py"))
IMPURE = {"os", "socket", "subprocess", "sqlite3", "time", "asyncio"}
# Each costs the watcher more memory than all of its own code.
HEAVY = {"aiohttp", "click", "cryptography", "httpx", "psutil", "pyroute2", "ssl"}
WATCHER = ("daemon", "host", "subsystems")


def layers() -> dict[str, int]:
    """From a module or folder to the number of its layer: 0 is the top of the table."""
    text = (SOURCE / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| (programs|flow|subsystems|machine|pure|values) \| (.*?) \|$", text, re.MULTILINE)
    assert len(rows) == 6, "the table of the layers is not as this test knows it"
    # In the row of the pure modules, what they may not import follows a colon.
    named = ((number, cell.partition(": no ")[0]) for number, (_, cell) in enumerate(rows))
    return {
        word.rstrip("/"): number for number, cell in named for word in re.findall(r"`([a-z0-9_/]+)`", cell)
    }


LAYERS = layers()
CHECKS = {f"subsystems.{name}" for name in (*SUBSYSTEM_NAMES, *TEMPLATES, "shellcompat")}
SUBSYSTEMS, PURE = LAYERS["subsystems"], LAYERS["settings"]


def module(file: Path) -> str:
    """The dotted name of a file, without the package's."""
    parts = file.relative_to(SOURCE / PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module(file): file for file in FILES}


def imports(tree: ast.AST, *, in_functions: bool = True) -> Iterator[str]:
    """Every name that is imported when the code runs, in full: ``a.b`` and ``a.b.name``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not in_functions:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imports(node, in_functions=in_functions)


def ours(file: Path, *, in_functions: bool = True) -> set[str]:
    """The modules of this package that *file* imports."""
    names = imports(ast.parse(file.read_text()), in_functions=in_functions)
    inside = {name.partition(".")[2] for name in names if name.partition(".")[0] == PACKAGE}
    return {name for name in inside if name in MODULES and name}


def top(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_go_down_only(name: str) -> None:
    """
    A module imports from its own layer and from those below; subsystems never each other.
    """
    assert top(name) in LAYERS, f"{name} has no layer in docs/architecture.md"
    for other in ours(MODULES[name]):
        assert LAYERS[top(other)] >= LAYERS[top(name)], f"{name} imports {other}, which is above it"
        if top(name) == "subsystems":
            assert other not in CHECKS, f"{name} imports its sibling {other}"


@pytest.mark.parametrize("name", [name for name in MODULES if LAYERS.get(top(name)) == PURE])
def test_pure_modules_do_no_io(name: str) -> None:
    """
    What decides neither reads the machine nor the clock.
    """
    found = {top(imported) for imported in imports(ast.parse(MODULES[name].read_text()))}
    assert not found & IMPURE


def test_the_watcher_loads_nothing_heavy() -> None:
    """
    Nothing that the daemon can come to import, imports at its top what costs megabytes.
    """
    reached: set[str] = set()
    waiting = [name for name in MODULES if top(name) in WATCHER]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += ours(MODULES[name])
    # The sender and the CLI are programs of their own.
    for name in sorted(reached):
        names = imports(ast.parse(MODULES[name].read_text()), in_functions=False)
        assert not {top(imported) for imported in names} & HEAVY, f"{name} is loaded by the watcher"


def test_the_watcher_as_it_is_loaded() -> None:
    """
    The same, seen from the process: asyncio alone brings ssl.
    """
    code = f"import sys, {PACKAGE}.daemon; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=SOURCE, capture_output=True, text=True, check=True
    ).stdout.split()
    assert f"{PACKAGE}.daemon" in loaded
    assert not set(loaded) & (HEAVY - {"ssl"})
