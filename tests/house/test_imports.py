"""What may import what: the table of ARCHITECTURE.md, read from the syntax trees."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.sources import PRODUCT, files, functions, imports, module_name, name, tree

LIBRARIES = {
    "beemesh": {"msgspec", "nacl", "cryptography", "Crypto"},
    "agent": {
        *("msgspec", "nacl", "cryptography", "Crypto"),
        *("psutil", "yaml", "starlette", "uvicorn", "uvloop", "prometheus_client", "anyio", "h11"),
    },
    "beemeshctl": {
        *("msgspec", "nacl", "cryptography", "Crypto"),
        *("click", "rich", "ruamel", "jinja2", "asyncssh", "jsonschema", "referencing", "urllib3", "psutil", "yaml"),
    },
    "simulator": {"msgspec"},
    "playbooks": set(),
    "schemas": {"msgspec"},
}
"""Folder → the libraries it may use, besides the standard library."""

ROOMS = {
    "beemesh": {"beemesh"},
    "agent": {"agent", "beemesh"},
    "beemeshctl": {"beemeshctl", "beemesh", "playbooks", "schemas"},
    "simulator": {"simulator", "beemesh"},
    "playbooks": {"playbooks"},
    "schemas": {"schemas", "beemesh", "beemeshctl"},  # generated from both
}
"""Folder → our own folders it may import."""

DOORS = {("beemeshctl/commands/simulate.py", "simulator")}
"""The one door between neighbours: `beemeshctl simulate` loads the simulator when it is called."""

APART = tuple(f"beemesh.scheduling.{room}" for room in ("auction", "stewardship", "execution"))
"""Neighbours that know nothing of each other: what two of them need stands above them, or travels as an event."""

IMPURE = {
    *("asyncio", "socket", "ssl", "select", "selectors", "time", "random", "secrets", "uuid"),
    *("subprocess", "threading", "multiprocessing", "concurrent", "signal", "os", "shutil", "tempfile", "glob", "io"),
    *("http", "urllib", "sqlite3", "fcntl", "platform", "getpass"),
}
"""Standard library that does, knows or draws something: not in `beemesh/`, which is told everything."""
PURE_PARTS = {"urllib.parse", "io.BytesIO"}
"""What is pure in modules that are not."""
IMPURE_CALLS = {"open", "input", "print", "breakpoint", "exec", "eval", "__import__"}
IMPURE_METHODS = {
    *("now", "today", "utcnow"),
    *("read_text", "read_bytes", "write_text", "write_bytes", "exists", "is_file", "is_dir", "iterdir", "rglob"),
    *("mkdir", "unlink", "rmdir", "stat", "chmod", "expanduser", "cwd", "home"),
}
"""Methods of `datetime` and `Path` that look at the world."""

HEAVY = {"rich", "ruamel", "jinja2", "asyncssh", "jsonschema", "referencing", "urllib3", "cryptography", "nacl", "yaml"}
"""Libraries that only the command that needs them may load: `beemeshctl --help` answers within 150 ms."""
LIGHT_FILES = {"beemeshctl/main.py", "beemeshctl/__init__.py", "beemeshctl/commands/__init__.py"}
"""What every start of `beemeshctl` loads."""


def _imported(file: Path) -> Iterator[tuple[int, str]]:
    return imports(tree(file), module_name(file), is_package=file.name == "__init__.py")


@pytest.mark.parametrize("room", PRODUCT)
def test_every_room_imports_only_what_it_may(room: str) -> None:
    """Each folder imports the standard library, its own libraries and its allowed neighbours, nothing else."""
    wrong = []
    for file in files(room):
        for line, target in _imported(file):
            top = target.partition(".")[0]
            allowed = top in sys.stdlib_module_names or top in LIBRARIES[room] or top in ROOMS[room]
            if not allowed and (name(file), top) not in DOORS:
                wrong.append(f"{name(file)}:{line}: {room}/ may not import {target}")

    assert not wrong, "\n".join(wrong)


def test_the_core_imports_nothing_that_acts() -> None:
    """`beemesh/` imports no module that waits, looks at a clock, draws a number or touches a file or socket."""
    wrong = []
    for file in files("beemesh"):
        for line, target in _imported(file):
            top = target.partition(".")[0]
            if top in IMPURE and not any(f"{target}.".startswith(f"{part}.") for part in PURE_PARTS):
                wrong.append(f"{name(file)}:{line}: the core may not import {target}; hand it in")

    assert not wrong, "\n".join(wrong)


def test_the_rooms_of_scheduling_do_not_know_each_other() -> None:
    """Who bids, who hosts and who runs are three machines that talk by messages and events."""
    wrong = []
    for file in files("beemesh"):
        own = next((room for room in APART if module_name(file).startswith(room)), None)
        for line, target in _imported(file):
            other = next((room for room in APART if target.startswith(room)), None)
            inside = module_name(file).startswith("beemesh.scheduling.")
            if other not in (own, None) and (own is not None or inside):
                wrong.append(f"{name(file)}:{line}: may not import {target}")

    assert not wrong, "\n".join(wrong)


def _impure_calls(file: Path) -> Iterator[str]:
    for node in ast.walk(tree(file)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in IMPURE_CALLS:
            yield f"{name(file)}:{node.lineno}: the core may not call {called.id}()"
        if isinstance(called, ast.Attribute) and called.attr in IMPURE_METHODS:
            owner = ast.unparse(called.value)
            if "datetime" in owner or owner == "date" or "Path" in owner or owner.endswith(("path", "file", "folder")):
                yield f"{name(file)}:{node.lineno}: the core may not call {owner}.{called.attr}()"


def test_the_core_calls_nothing_that_acts() -> None:
    """`beemesh/` opens no file and reads no clock: no `open`, no `datetime.now`, no method of `Path` that looks."""
    wrong = [problem for file in files("beemesh") for problem in _impure_calls(file)]

    assert not wrong, "\n".join(wrong)


def test_commands_load_heavy_libraries_inside_functions() -> None:
    """What every start of the command line loads imports no heavy library at the top of a module."""
    wrong = []
    for file in files("beemeshctl"):
        shared = name(file) in LIGHT_FILES or name(file).startswith("beemeshctl/commands/")
        inside = {target for function in functions(tree(file)) for target in _imported_below(function, file)}
        for line, target in _imported(file):
            if shared and target.partition(".")[0] in HEAVY and (line, target) not in inside:
                wrong.append(f"{name(file)}:{line}: import {target} inside the function that needs it")

    assert not wrong, "\n".join(wrong)


def _imported_below(node: ast.AST, file: Path) -> Iterator[tuple[int, str]]:
    return imports(node, module_name(file), is_package=file.name == "__init__.py")


def _module_edges() -> dict[str, set[str]]:
    """Module → the modules of ours that it loads when it is loaded itself (not those inside functions, not types)."""
    known = {module_name(file): file for file in files(*PRODUCT)}
    edges: dict[str, set[str]] = {}
    for module, file in known.items():
        later = {each for function in functions(tree(file)) for each in _imported_below(function, file)}
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                later |= set(_imported_below(node, file))
        targets = {target for line, target in _imported(file) if (line, target) not in later}
        found = {target if target in known else target.rpartition(".")[0] for target in targets}
        edges[module] = {target for target in found if target in known and target != module}
    return edges


def _cycle(edges: dict[str, set[str]]) -> list[str]:
    """One cycle as a list of modules, or an empty list. Iterative: the graph is deeper than it looks."""
    done: set[str] = set()
    for start in sorted(edges):
        trail: list[str] = []
        stack: list[tuple[str, bool]] = [(start, False)]
        while stack:
            module, leaving = stack.pop()
            if leaving:
                done.add(trail.pop())
                continue
            if module in trail:
                return [*trail[trail.index(module) :], module]
            if module in done:
                continue
            trail.append(module)
            stack.append((module, True))
            stack.extend((target, False) for target in sorted(edges[module]))
    return []


def test_no_module_imports_itself_in_a_circle() -> None:
    """Modules form layers: no chain of imports comes back to where it began."""
    cycle = _cycle(_module_edges())

    assert not cycle, " → ".join(cycle)


def test_the_search_for_circles_finds_one() -> None:
    """The search itself: a circle behind a fork is found, a fork that meets again is none."""
    assert _cycle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []
    assert _cycle({"a": {"b", "c"}, "b": set(), "c": {"d"}, "d": {"c"}}) == ["c", "d", "c"]
